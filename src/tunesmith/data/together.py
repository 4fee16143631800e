"""Rows that a split must not part: those of one key, and near copies of one another, joined into clusters.

Two rows are joined where their prompts are the same but for case, white space and digits, or nearly the same by their
words (`near`), and the one's reply would do for the other. So clusters are what the audit looks for across a split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.data import alike
from tunesmith.data.finding import prompt_of, replies_of
from tunesmith.data.near import LEAST, Bands, Words, side_by_side, words_of
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.traits import KINDS, column
from tunesmith.types import Example, Reply

SAME_REPLY = 0.5  # share of the words in either that are in both
MOST_FRAC = 0.02  # of the rows: more near copies are a template that the data consists of, of which a test needs some
MOST_ROWS = 4  # that may always stay together


class Clusters:
    """Which of n rows are joined; 4 bytes a row. A cluster is named after its first row."""

    def __init__(self, num: int) -> None:
        self._parent, self._is_flat = np.arange(num, dtype=np.uint32), True

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The first row of the cluster of each."""
        while not self._is_flat:  # each round halves the ways
            above = self._parent[self._parent]
            self._is_flat = bool((above == self._parent).all())
            self._parent = above
        found: np.ndarray = self._parent[rows]
        return found

    def join(self, one: int, other: int) -> None:
        first, last = sorted((self._root(one), self._root(other)))
        self._is_flat = self._is_flat and first == last
        self._parent[last] = first

    def _root(self, row: int) -> int:
        parent = self._parent
        while (above := int(parent[row])) != row:
            parent[row] = parent[above]
            row = above
        return row

    def join_like(self, some: np.ndarray) -> None:
        """Rows whose digests are equal."""
        first = alike.first_like(some)
        for at in np.flatnonzero(first != np.arange(len(first), dtype=np.uint32)).tolist():
            self.join(at, int(first[at]))


def clusters(examples: Sequence[Example], step: Step = untold) -> np.ndarray:
    """Of each row the number of the first one in its cluster, uint32."""
    found = Clusters(len(examples))
    found.join_like(column(examples, "key"))
    found.join_like(column(examples, "masked"))
    words = Words(counted(map(prompt_of, examples), len(examples), "prompts read, to split near copies alike", step))
    said = replies(examples, step)
    for side in side_by_side(Bands(words, step), np.ones(len(examples), bool)):
        pairs = side[found.of(side[:, 0]) != found.of(side[:, 1])]
        pairs = pairs[words.similarity(pairs) >= LEAST]
        if said is not None:
            pairs = pairs[said.similarity(pairs, weighed=False) >= SAME_REPLY]
        for one, other in pairs.tolist():
            found.join(one, other)
    return found.of(np.arange(len(examples)))


def replies(examples: Sequence[Example], step: Step = untold) -> Words | None:
    """Their words, where all rows have replies: labels say nothing of whether two rows are one."""
    if (column(examples, "kind") != KINDS.index("Reply")).any():
        return None
    each = (text for e in examples for text in replies_of(e))
    return Words(counted(each, len(examples), "replies read, to split near copies alike", step))


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
