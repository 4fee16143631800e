"""The metric bits per byte: what `bits.py` computes, case by case and as sums that add up over cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.evals.bits import bits_per_byte
from tunesmith.evals.counted import Parts, ratio
from tunesmith.evals.text import as_text, numbers

MOST = 32.0  # bits per byte that a case counts with; even all tokens of the largest vocabulary alike need 17 for one


def num_bytes(text: object) -> int:
    return len(as_text(text).encode("utf-8", "surrogatepass"))


def case(measured: object, reference: object) -> float:
    """Bits per byte of one reference, at most MOST; 0 where it has no byte. `measured`: (nats,) of the reference."""
    size = num_bytes(reference)
    return min(bits_per_byte(numbers(measured), size), MOST) if size else 0.0


def stats(measured: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 2]: bits and bytes. A text without bytes counts with neither."""
    sizes = [num_bytes(r) for r in references]
    rows = [(case(m, r) * size, size) for m, r, size in zip(measured, references, sizes, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), 2)


def value(sums: np.ndarray) -> np.ndarray:
    """All bits by all bytes: a ratio of sums, so that a long text counts for its length."""
    return ratio(sums[..., 0], sums[..., 1])


BITS_PER_BYTE = Parts(stats, value)
