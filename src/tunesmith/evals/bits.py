"""Bits per byte: how well a model foretells a text, whatever its tokenizer. Less is better; it needs no answers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

NUM_DRAWS = 2_000  # of a bootstrap over cases


def bits_per_byte(nll_nats: ArrayLike, num_bytes: ArrayLike) -> float:
    """All bits over all UTF-8 bytes: `nll_nats` [n] is the negative log-likelihood of each text, `num_bytes` [n] its
    length. Not the mean of the texts' own figures, in which a short text would weigh as much as a long one."""
    bytes_n = np.asarray(num_bytes, dtype=float)
    if not bytes_n.sum() > 0:
        return math.nan
    return float(np.asarray(nll_nats, dtype=float).sum() / math.log(2) / bytes_n.sum())


def interval(
    nll_nats: ArrayLike, num_bytes: ArrayLike, other: ArrayLike | None = None, seed: int = 0
) -> tuple[float, float]:
    """95% interval of `bits_per_byte`, or with `other` [n] of how many bits more than that model's, on the same texts.

    Percentiles over cases drawn with replacement: the ratio of two sums.
    """
    nats_n, bytes_n = np.asarray(nll_nats, dtype=float), np.asarray(num_bytes, dtype=float)
    nats_n = nats_n if other is None else nats_n - np.asarray(other, dtype=float)
    drawn_dn = np.random.default_rng(seed).integers(len(nats_n), size=(NUM_DRAWS, len(nats_n)))
    values_d = nats_n[drawn_dn].sum(axis=1) / math.log(2) / np.maximum(bytes_n[drawn_dn].sum(axis=1), 1)
    low, high = np.percentile(values_d, [2.5, 97.5])
    return float(low), float(high)
