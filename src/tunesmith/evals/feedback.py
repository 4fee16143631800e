"""Replies that somebody marked as good or bad: did good ones become likelier than before training, and bad ones less
likely? Both marks weigh the same, so that a model to which all replies became likelier gets one half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tunesmith.evals.counted import Parts, ratio
from tunesmith.evals.text import numbers

MOST_GAIN = 1000.0  # nats that a reply's change counts with at most, either way


def case(measured: object, reference: object) -> float:
    """1 where the reply moved as it is marked, 1/2 where it did not move. `measured`: nats by which it became likelier,
    and 1 where it is marked good, 0 where bad."""
    gain, good = numbers(measured)
    return 0.5 if gain == 0 else float((gain > 0) == bool(good))


def margin(measured: object, reference: object) -> float:
    """Nats by which the reply moved as it is marked."""
    gain, good = numbers(measured)
    return max(-MOST_GAIN, min(MOST_GAIN, gain if good else -gain))


def by_mark(score: Callable[[object, object], float]) -> Parts:
    """The mean of the two marks' means; of one mark alone, its own."""

    def stats(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
        """[n, 4]: score and 1 of good replies, the same of bad ones."""
        rows = []
        for measured, reference in zip(outputs, references, strict=True):
            found, (_, good) = score(measured, reference), numbers(measured)
            rows.append([found, 1.0, 0.0, 0.0] if good else [0.0, 0.0, found, 1.0])
        return np.array(rows).reshape(len(rows), 4)

    def value(sums: np.ndarray) -> np.ndarray:
        good, bad = (ratio(sums[..., k], sums[..., k + 1]) for k in (0, 2))
        num_marks = (sums[..., 1] > 0).astype(float) + (sums[..., 3] > 0)
        return np.asarray(ratio(good + bad, num_marks))

    return Parts(stats, value)
