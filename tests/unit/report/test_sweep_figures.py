"""The figures of a sweep's page."""

from __future__ import annotations

from itertools import pairwise

from tunesmith.report.sweep_page import ROOM, apart


def test_words_below_an_axis_have_room() -> None:
    """The ends are named, whatever lies between. A mutant that names every place writes words over words."""
    assert apart([0.05, 0.5, 0.6, 0.7, 0.94, 0.95]) == [0.05, 0.5, 0.7, 0.95]
    assert apart([0.5]) == [0.5]
    found = apart([k / 50 for k in range(51)])
    assert (found[0], found[-1]) == (0.0, 1.0)
    assert min(b - a for a, b in pairwise(found)) >= ROOM
