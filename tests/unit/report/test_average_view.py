"""What the page says of average.json: the way from the tuned weights to the base's."""

from __future__ import annotations

import re
from typing import Any

from tunesmith.report.average_view import nearer, trade_off

CIRCLE = re.compile(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4" class="([a-z ]+)"/>')


def facts(*, chosen: float = 0.5, reads_text: bool = True) -> dict[str, Any]:
    points = [(0.0, 1.0, 1.30), (0.5, 0.8, 1.20), (1.0, 2.0, 1.10)]
    rows = [{"base_share": s, "dev_loss": d, "bits_per_byte": b if reads_text else None} for s, d, b in points]
    return {"base_share": chosen, "why": "least loss on dev", "tried": rows}


def test_the_table_says_which_weights_are_the_run_s() -> None:
    view = nearer(facts())
    assert view.said[0].startswith("The run's weights have 50% of the base's, since it has the least loss on dev")
    assert view.sheets[0].rows == (
        ("0%", "1.0000", "1.3000"), ("50%, the run's", "0.8000", "1.2000"), ("100%", "2.0000", "1.1000"),
    )  # fmt: skip
    assert nearer(facts(reads_text=False)).sheets[0].rows[0] == ("0%", "1.0000", "not known")


def test_the_curve() -> None:
    """Across is general text, up is dev (a lower loss is lower on the page), and the chosen point is filled."""
    found = [(float(x), float(y), css) for x, y, css in CIRCLE.findall(str(trade_off(facts())))]
    assert [css for _, _, css in found] == ["mark", "dot main", "mark"]
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = found
    assert x2 < x1 < x0
    assert abs((x0 - x1) - (x1 - x2)) < 0.2
    assert y2 < y0 < y1
    assert abs((y1 - y0) / (y1 - y2) - 0.2 / 1.2) < 0.01
    other = [css for _, _, css in CIRCLE.findall(str(trade_off(facts(chosen=0.0))))]
    assert other == ["dot main", "mark", "mark"]  # a mutant that fills the best of dev would not follow


def test_without_general_text_there_is_no_curve() -> None:
    assert trade_off(facts(reads_text=False)) is None
