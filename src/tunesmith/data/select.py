"""Which rows to keep: orders of rows by scores or by where they lie, the first of which are kept.

Every order is nested (a smaller budget keeps the beginning of a larger one's), and ties go by a hash of seed and id, or
to the earlier row: none depends on a clock or on how many are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

BLOCK = 512  # rows that are compared with others at a time
UNRELATED = 1.0  # IFD from which on a reply is no likelier behind its prompt than alone

Progress = Callable[[int, int], None]  # done, of


def by_hash(ids: Iterable[str], seed: int) -> np.ndarray:
    """Numbers of the rows [n], in an order drawn by hash of seed and id."""
    drawn = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in ids)
    return np.argsort(np.frombuffer(drawn, "S32"), kind="stable")


def by_score(score: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The highest score [n] first; equal ones as they were `drawn`."""
    return drawn[np.argsort(-score[drawn], kind="stable")]


def by_difficulty(ifd: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The highest IFD below 1 first. From 1 on the prompt makes its reply no likelier, which is no hard row but one
    whose reply belongs to another prompt: these stand behind all others."""
    return by_score(np.where(ifd < UNRELATED, ifd, -ifd), drawn)


def scaled(vectors: np.ndarray) -> np.ndarray:
    """[n, D] float32 less their mean, in units of their spread: two rows drawn at random are about 1.4 apart. Each row
    keeps its own length: brought to length 1, rows near the mean, of which there are most, would point anywhere."""
    rows = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)
    spread = np.sqrt(np.square(rows, dtype=np.float64).sum(1).mean())
    return np.asarray(rows / max(float(spread), 1e-12), np.float32)


def apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, m] squared distances of the rows of [n, D] and [m, D]."""
    found = np.square(some).sum(1)[:, None] + np.square(others).sum(1) - 2 * (some @ others.T)
    return np.asarray(np.maximum(found, 0))


def k_centre(vectors: np.ndarray, num: int, first: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """(rows [num] in the order in which they are taken, distance [num] of each to the nearest taken before it).

    Each is the row of [n, D] farthest from all that are taken (Gonzalez 1985): what is farthest from the rows so taken
    is at most twice as far as the best choice of as many rows could have it.
    """
    squared = np.full(len(vectors), np.inf, np.float32)
    order, distance = np.empty(num, np.int64), np.empty(num, np.float32)
    at = first
    for k in range(num):
        order[k], distance[k] = at, np.sqrt(squared[at])
        np.minimum(squared, apart(vectors, vectors[at : at + 1])[:, 0], out=squared)
        squared[order[: k + 1]] = -1  # a twin of a taken row is at 0
        at = int(squared.argmax())
        progress(k + 1, num)
    return order, distance


def nearest_earlier(vectors: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """(distance [n] of each row of [n, D] from the earlier row that is nearest, number [n] of that row); infinite and
    -1 of the first."""
    num = len(vectors)
    squared, which = np.full(num, np.inf, np.float32), np.full(num, -1, np.int64)
    for begin in range(0, num, BLOCK):
        some = slice(begin, min(begin + BLOCK, num))
        for start in range(0, some.stop, BLOCK):
            found = apart(vectors[some], vectors[start : start + BLOCK])
            if start == begin:
                found[np.triu_indices(len(found))] = np.inf
            at = found.argmin(1)
            best = found[np.arange(len(at)), at]
            is_nearer = best < squared[some]
            squared[some] = np.where(is_nearer, best, squared[some])
            which[some] = np.where(is_nearer, start + at, which[some])
        progress(some.stop, num)
    return np.sqrt(squared), which


def radius(vectors: np.ndarray, taken: np.ndarray) -> float:
    """How far the row farthest from all taken ones is from its nearest: what k-centre makes small."""
    blocks = range(0, len(vectors), BLOCK)
    return float(np.sqrt(max(apart(vectors[b : b + BLOCK], vectors[taken]).min(1).max() for b in blocks)))
