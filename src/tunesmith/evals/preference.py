"""Pairs of replies: how often the model finds the chosen one likelier than the rejected one, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations
from statistics import mean
from typing import Literal

from tunesmith.evals.text import numbers

TIE = 1e-6  # nats, relative: below it the two are equally likely, and a half counts

MOST_MARGIN = 1000.0  # nats that a pair's margin counts with at most, either way
MOST_NATS = 100.0  # a token, of a reply

By = Literal["sum", "mean"]


def preferred(chosen: float, rejected: float) -> float:
    """1, 0, or 1/2 for a tie, from two log-probabilities in nats."""
    if abs(chosen - rejected) <= TIE * max(abs(chosen), abs(rejected)):
        return 0.5
    return float(chosen > rejected)


def case(measured: object, reference: object) -> float:
    """`measured`: log-probability of the chosen and of the rejected reply, in nats, summed or per token; of a list of
    replies of each of its pairs, whose mean is taken."""
    return mean(preferred(chosen, rejected) for chosen, rejected in pairs_of(measured))


def pairs_of(measured: object) -> list[tuple[float, float]]:
    found = numbers(measured)
    return list(zip(found[::2], found[1::2], strict=True))


def measured_pair(logps: Sequence[tuple[float, int]], by: By) -> tuple[float, ...]:
    """What `case` takes, from (summed nats, tokens) of each reply, the best first. The sum is the model's own
    preference and favours short replies; the mean per token does not."""
    nats = [logp if by == "sum" else logp / max(num, 1) for logp, num in logps]
    return tuple(chain.from_iterable(combinations(nats, 2)))


def margin(measured: object, reference: object) -> float:
    """Nats by which the chosen reply is likelier. `measured`: as `case` takes it."""
    return mean(max(-MOST_MARGIN, min(MOST_MARGIN, gap)) for gap in gaps(measured))


def gaps(measured: object) -> list[float]:
    return [chosen - rejected for chosen, rejected in pairs_of(measured)]


def surprise(measured: object, reference: object) -> float:
    """Nats by which the preference surprises whoever takes the scores' difference for its log odds: the calibration of
    a reward model, of which less is better."""
    return mean(min(MOST_MARGIN, math.log1p(math.exp(-abs(gap))) + max(0.0, -gap)) for gap in gaps(measured))


def chosen_nats(measured: object, reference: object) -> float:
    """`measured`: log-probability per token of the chosen and of the rejected reply, in nats."""
    chosen, _ = numbers(measured)
    return min(-chosen, MOST_NATS)


def rejected_nats(measured: object, reference: object) -> float:
    """The same of the rejected reply."""
    _, rejected = numbers(measured)
    return min(-rejected, MOST_NATS)


def measured_all(logps: Sequence[tuple[float, int]], by: By) -> dict[str, tuple[float, ...]]:
    """What the metrics of pairs read, by name, from (summed nats, tokens) of each reply; of a list the best and the
    worst one are what was chosen and rejected."""
    asked, each = measured_pair(logps, by), measured_pair((logps[0], logps[-1]), "mean")
    return {"preference_accuracy": asked, "preference_margin": asked, "chosen_nats": each, "rejected_nats": each}
