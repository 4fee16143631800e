"""Rows that a split must not part: those of one key, and near copies of one another, joined into clusters.

Two rows are joined where their prompts are the same but for case, white space and digits, or nearly the same by their
words (`near`), and the one's reply would do for the other. So clusters are what the audit looks for across a split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.data import alike
from tunesmith.data.finding import prompt_of
from tunesmith.data.near import Bands, Words, alike_in, side_by_side, words_of
from tunesmith.data.traits import column
from tunesmith.types import Example, Reply

SAME_REPLY = 0.5  # share of the words in either that are in both
MOST_FRAC = 0.02  # of the rows: more near copies are a template that the data consists of, of which a test needs some
MOST_REFUSED = 2**18  # pairs with other replies that are remembered: most meet in many bands
MOST_ROWS = 4  # that may always stay together


class Clusters:
    """Which of n rows are joined; 4 bytes a row. A cluster is named after its first row."""

    def __init__(self, num: int) -> None:
        self._parent = np.arange(num, dtype=np.uint32)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The first row of the cluster of each."""
        found = self._parent[rows]
        while (self._parent[found] != found).any():
            found = self._parent[found]
        self._parent[rows] = found
        return found

    def join(self, one: int, other: int) -> None:
        roots = self.of(np.array([one, other], np.uint32))
        self._parent[roots.max()] = roots.min()

    def join_like(self, some: np.ndarray) -> None:
        """Rows whose digests are equal."""
        first = alike.first_like(some)
        for at in np.flatnonzero(first != np.arange(len(first), dtype=np.uint32)).tolist():
            self.join(at, int(first[at]))


def clusters(examples: Sequence[Example]) -> np.ndarray:
    """Of each row the number of the first one in its cluster, uint32."""
    every = np.arange(len(examples), dtype=np.uint32)
    found = Clusters(len(examples))
    found.join_like(column(examples, "key"))
    found.join_like(column(examples, "masked"))
    words, refused = Words(map(prompt_of, examples)), set[tuple[int, int]]()
    for side in side_by_side(Bands(words), np.ones(len(examples), bool)):
        pairs = side[found.of(side[:, 0]) != found.of(side[:, 1])]
        for one, other, _ in alike_in(words, pairs):
            if (one, other) in refused:
                continue
            if is_answered(examples[one], examples[other]):
                found.join(one, other)
            elif len(refused) < MOST_REFUSED:
                refused.add((one, other))
    return found.of(every)


def templates(cluster: np.ndarray) -> np.ndarray:
    """Marks of the rows whose cluster has more than MOST_FRAC of all rows (and more than MOST_ROWS)."""
    sizes = np.bincount(cluster, minlength=len(cluster))
    return sizes[cluster] > max(MOST_ROWS, MOST_FRAC * len(cluster))


def have_copies(cluster: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Marks of the rows whose cluster has other keys than their own (`alone`: the first row with their key)."""
    return np.bincount(cluster, minlength=len(cluster))[cluster] > np.bincount(alone, minlength=len(alone))[alone]


def is_answered(asked: Example, learned: Example) -> bool:
    """Whether the learned reply would do, by its words. A label, or a case without replies, is not looked at."""
    if not isinstance(asked.target, Reply) or not isinstance(learned.target, Reply):
        return True
    one, other = words_of(asked.target.text), words_of(learned.target.text)
    return len(np.intersect1d(one, other)) >= SAME_REPLY * len(np.union1d(one, other))
