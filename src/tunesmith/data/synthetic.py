"""Rows that a model wrote: learned from, never a case that anything is measured on, and none that is like one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from tunesmith.data import alike
from tunesmith.data.finding import prompt_of
from tunesmith.data.near import Bands, Words, near_earlier
from tunesmith.data.rows import Row
from tunesmith.data.split import SPLITS, Split
from tunesmith.data.stored import Chosen, Joined
from tunesmith.data.traits import column
from tunesmith.errors import DataError
from tunesmith.types import Example

COLUMN = "synthetic"  # in which `tunesmith synthesise` says how a row was made
MADE_BY = ("expand", "paraphrase", "back-translation", "rationale", "questions")


def is_synthetic(row: Row) -> bool:
    """Another column of that name says something else."""
    return row.get(COLUMN) in MADE_BY


def real_of(examples: Sequence[Example]) -> Sequence[Example]:
    """Those that nobody made up: what a split is drawn from, so that made-up rows move none."""
    is_made = column(examples, "synthetic")
    if not is_made.any():
        return examples
    if is_made.all():
        raise DataError(f"all {len(examples)} rows were made up by a model, so nothing could be proven: add real ones")
    return Chosen(examples, np.flatnonzero(~is_made))


def joined(parts: Split, examples: Sequence[Example], *, keep: bool) -> Split:
    """The split of the real ones of `examples` with the others in training: but for those that are, or nearly are, a
    held-out prompt."""
    is_made = column(examples, "synthetic")
    if not keep or not is_made.any():
        return parts
    made = Chosen(examples, np.flatnonzero(is_made))
    held_out = Joined(parts.dev, parts.test)
    places = parts.ledger.places(column(made, "key"))
    is_free = (places < 0) | (places == SPLITS.index("train"))
    is_free &= alike.places(np.unique(column(held_out, "masked")), column(made, "masked")) < 0
    words = Words(prompt_of(example) for example in chain(held_out, made))
    is_held_out = np.arange(len(words)) < len(held_out)
    for at, _, _ in near_earlier(words, Bands(words), ~is_held_out, is_held_out):
        is_free[at - len(held_out)] = False
    learned = Chosen(made, np.flatnonzero(is_free))
    ledger = parts.ledger.joined(column(learned, "key"), np.zeros(len(learned), np.int8))
    train = Chosen(examples, np.sort(np.concatenate([numbers(parts.train, examples), numbers(learned, examples)])))
    return replace(parts, train=train, ledger=ledger)


def numbers(some: Sequence[Example], whole: Sequence[Example]) -> np.ndarray:
    """Their places in the sequence that they were chosen from, by whatever steps."""
    assert isinstance(some, Chosen)
    return some.at if some.whole is whole else numbers(some.whole, whole)[some.at]


def facts(train: Sequence[Example]) -> dict[str, float]:
    """How many of the training rows, and which share of them."""
    num = int(column(train, "synthetic").sum())
    return {"count": num, "share": num / max(1, len(train))}
