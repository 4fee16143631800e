"""Preference accuracy: how often the model finds the chosen reply likelier than the rejected one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tunesmith.evals.text import numbers

TIE = 1e-6  # nats, relative: below it the two are equally likely, and a half counts

By = Literal["sum", "mean"]


def preferred(chosen: float, rejected: float) -> float:
    """1, 0, or 1/2 for a tie, from two log-probabilities in nats."""
    if abs(chosen - rejected) <= TIE * max(abs(chosen), abs(rejected)):
        return 0.5
    return float(chosen > rejected)


def case(measured: object, reference: object) -> float:
    """`measured`: log-probability of the chosen and of the rejected reply, in nats, summed or per token."""
    chosen, rejected = numbers(measured)
    return preferred(chosen, rejected)


def measured_pair(logps: Sequence[tuple[float, int]], by: By) -> tuple[float, float]:
    """What `case` takes, from (summed nats, tokens) of the chosen and of the rejected reply. The sum is the model's own
    preference and favours short replies; the mean per token does not."""
    (chosen, n), (rejected, m) = logps
    return (chosen, rejected) if by == "sum" else (chosen / max(n, 1), rejected / max(m, 1))
