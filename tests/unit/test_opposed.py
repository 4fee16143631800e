"""A metric that decides nothing and moved the other way, beyond chance, is said beside the decision."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.evaluate import opposed


def facts(decision: str, interval: tuple[float, float]) -> dict[str, Any]:
    return {"decision": decision, "secondary": {"chrf": {"base": 10.94, "tuned": 7.57, "interval": list(interval)}}}


@pytest.mark.parametrize(
    ("decision", "interval", "is_said"),
    [
        ("better", (-5.3, -1.5), True),
        ("better", (-5.3, 0.1), False),
        ("better", (1.5, 5.3), False),
        ("worse", (1.5, 5.3), True),
        ("worse", (-5.3, -1.5), False),
        ("too few cases", (-5.3, -1.5), False),
    ],
)
def test_only_the_other_side_of_zero_is_the_opposite(
    decision: str, interval: tuple[float, float], is_said: bool
) -> None:
    said = opposed(facts(decision, interval))
    assert bool(said) == is_said
    assert all("chrf, which decides nothing, says the opposite: 10.9 → 7.57" in note for note in said)
