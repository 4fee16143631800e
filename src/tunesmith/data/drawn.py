"""Where a row goes that no ledger knows: to train, dev or test, by the hash of its content, its time or its label.

What is drawn is a unit: a cluster of `together`, or a key where near copies may be parted. It goes to one side whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tunesmith.data import alike
from tunesmith.data.progress import Step, untold
from tunesmith.data.traits import column, label_names
from tunesmith.errors import DataError
from tunesmith.types import Example

By = Literal["content", "time", "label"]
PIECE = 4096  # keys that are text at a time


@dataclass(frozen=True, slots=True)
class Drawing:
    by: By = "content"
    near_together: bool = True  # near copies of one another are one unit
    step: Step = field(default=untold, compare=False)


def named(keys: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Of each row the name of its unit: the smallest key in its cluster, so that no order of a file decides."""
    names = keys.copy()
    shared = np.flatnonzero(np.bincount(cluster, minlength=len(cluster))[cluster] > 1)
    shared = shared[np.lexsort((keys[shared], cluster[shared]))]
    first, at = np.unique(cluster[shared], return_index=True)
    names[shared] = keys[shared[at]][np.searchsorted(first, cluster[shared])]
    return names


def drawn(
    examples: Sequence[Example], names: np.ndarray, salt: str, fractions: Mapping[str, float], by: By
) -> np.ndarray:
    """Of each row 0 (train), 1 (dev) or 2 (test), int8. `names` [n] are those of the rows' units."""
    if by == "content" or not len(names):
        return _by_content(names, salt, fractions)
    units, unit = np.unique(names, return_inverse=True)
    if by == "time":
        return _newest(_times(examples, unit, len(units)), np.bincount(unit), fractions)[unit]
    return _in_shares(_labels(examples, unit, len(units)), units, salt, fractions)[unit]


def _by_content(names: np.ndarray, salt: str, fractions: Mapping[str, float]) -> np.ndarray:
    """Uniform in [0, 1) from salt and name alone: the test set is at its lower end, dev behind it. So rows that are
    added move none."""
    found = np.zeros(len(names), np.int8)
    for begin in range(0, len(names), PIECE):
        at = np.array([uniform(f"{salt}\0{name}") for name in alike.to_hex(names[begin : begin + PIECE])])
        here = found[begin : begin + PIECE]
        here[at < fractions["test"] + fractions["dev"]] = 1
        here[at < fractions["test"]] = 2
    return found


def uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _newest(times: np.ndarray, sizes: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    """Units from the newest on to test until it has its share of the rows, then to dev. No unit of train is newer than
    one of test."""
    order = np.argsort(-times, kind="stable")
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / sizes.sum()
    found = np.zeros(len(times), np.int8)
    found[order[middle < fractions["test"] + fractions["dev"]]] = 1
    found[order[middle < fractions["test"]]] = 2
    return found


def _times(examples: Sequence[Example], unit: np.ndarray, num: int) -> np.ndarray:
    """Of each unit when its newest row came about, so that nothing of a held-out time is learned."""
    when = column(examples, "when")
    if np.isnan(when).any():
        source = examples[int(np.flatnonzero(np.isnan(when))[0])].source
        raise DataError(
            f"data.split_by is time, and {source} has none. Say the column that holds it: "
            "--set data.columns.when=COLUMN"
        )
    found = np.full(num, -np.inf)
    np.maximum.at(found, unit, when)
    return found


def _in_shares(labels: np.ndarray, units: np.ndarray, salt: str, fractions: Mapping[str, float]) -> np.ndarray:
    """Of each label's units every 1/fraction-th, in the order of a draw: systematic sampling, so that a side has its
    share of each label to within one unit, and every unit the same chance."""
    found = np.zeros(len(units), np.int8)
    left, share = np.arange(len(units)), 1.0
    for side, name in ((2, "test"), (1, "dev")):
        draws = np.array([uniform(f"{salt}\0{name}\0{unit}") for unit in alike.to_hex(units[left])])
        order = left[np.lexsort((draws, labels[left]))]
        steps = np.floor(np.arange(len(order) + 1) * (fractions[name] / share) + uniform(f"{salt}\0{name}"))
        found[order[np.diff(steps) > 0]] = side
        left, share = np.flatnonzero(found == 0), share - fractions[name]
    return found


def _labels(examples: Sequence[Example], unit: np.ndarray, num: int) -> np.ndarray:
    """Of each unit the first of its labels, by the alphabet."""
    label, names = column(examples, "label"), label_names(examples)
    if not names or (label < 0).any():
        raise DataError(
            "data.split_by is label, and the rows have none: it wants one label a row (data.columns.label). Leave it "
            "out: then the hash of the content decides"
        )
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(np.array(names), kind="stable")] = np.arange(len(names))
    found = np.full(num, len(names), np.int64)
    np.minimum.at(found, unit, rank[label])
    return found
