"""How well a model predicts tokens by where they stand in a text: what a context that is too long for it breaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

PARTS = 4  # of the base's own context, and as many of what is beyond it


def edges(own: int, tokens: int) -> list[int]:
    """Ends of the buckets, in tokens: [0, …, own, …, tokens]; nothing beyond `own` where that is all."""
    within = [round(own * k / PARTS) for k in range(PARTS + 1)]
    beyond = [round(own + (tokens - own) * k / PARTS) for k in range(1, PARTS + 1)] if tokens > own else []
    return sorted({*within, *beyond})


def documents(texts: Iterable[Sequence[int]], tokens: int, most: int) -> list[np.ndarray]:
    """At most `most` runs of `tokens` tokens: texts one behind the other, in their order; a text that is long enough is
    one by itself. Where all of them together are too short for one run, it is shorter."""
    found: list[np.ndarray] = []
    left: list[int] = []
    for text in texts:
        left += text
        if len(left) >= tokens:
            found.append(np.array(left[:tokens], dtype=np.int64))
            left = []
        if len(found) == most:
            return found
    return found if found or len(left) < 2 else [np.array(left, dtype=np.int64)]


def bucketed(ends: Sequence[int], nats: Sequence[np.ndarray]) -> tuple[list[float | None], list[int]]:
    """(mean nats per token, tokens) of each bucket. `nats`: of each document [n - 1], from its second token on, which
    stands at position 1. None where a bucket has no token."""
    total, num = np.zeros(len(ends) - 1), np.zeros(len(ends) - 1)
    for row in nats:
        at = np.searchsorted(ends, np.arange(1, len(row) + 1), side="right") - 1
        total += np.bincount(at, row, len(total))
        num += np.bincount(at, minlength=len(num))
    return [float(t / n) if n else None for t, n in zip(total, num)], num.astype(int).tolist()


def mean_between(
    ends: Sequence[int], losses: Sequence[float | None], num: Sequence[int], low: int, high: int
) -> float | None:
    """Nats per token of the buckets from position `low` to `high`, by their tokens; None where there is none."""
    rows = [
        (loss * n, n)
        for first, last, loss, n in zip(ends, ends[1:], losses, num)
        if low <= first and last <= high and loss is not None
    ]
    return sum(r[0] for r in rows) / sum(r[1] for r in rows) if rows else None
