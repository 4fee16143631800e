"""Rows that are nearly the same: within training, and between held-out rows and training, which no key finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tunesmith.data import alike
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of, replies_of
from tunesmith.data.near import Bands, Words, near_earlier
from tunesmith.data.split import Split
from tunesmith.data.together import is_answered
from tunesmith.data.traits import column
from tunesmith.types import Example

SAME_WORDS = 0.999  # similarity, from which on two texts have the same words
LEVELS = {  # of a leak, after the identical ones, which the split takes out, and the twins but for digits
    "reordered": (
        "have the words of a training row, in another order or but for a common one",
        "the answer is known from training",
    ),
    "edited": ("differ from a training row in a few words", "much of the answer is known from training"),
}
GROUP = (
    "say what such rows share (a document, a customer, a template) as `data.columns.group`: then they stay in one split"
)


@dataclass(frozen=True, slots=True)
class Near:
    at: int
    like: int
    similarity: float  # 0 to 1, of their words, the rare ones weighing more


def near_duplicates(examples: Sequence[Example]) -> list[Near]:
    """Of rows that differ in more than case, white space and digits: each with one before it that it is nearly like."""
    text = column(examples, "text")
    is_first = alike.first_like(text) == np.arange(len(text), dtype=np.uint32)
    words = Words("\n".join((*(m.content for m in e.prompt), *replies_of(e))) for e in examples)
    return [Near(*found) for found in near_earlier(words, Bands(words), is_first, is_first)]


def leaks(split: Split, name: str) -> list[Near]:
    """Of the held-out rows that no training row equals but for case, white space and digits: each with a training row
    whose prompt is nearly the same, and whose reply, where there are replies, is like its own: "what causes X" and
    "what is X" are two questions."""
    held_out: Sequence[Example] = getattr(split, name)
    train = column(split.train, "masked")
    known = alike.places(np.unique(train), column(held_out, "masked")) >= 0
    words = Words(prompt_of(example) for example in chain(split.train, held_out))
    is_train = np.arange(len(words)) < len(train)
    found = near_earlier(words, Bands(words), np.concatenate([np.zeros(len(train), bool), ~known]), is_train)
    near = [Near(at - len(train), like, similarity) for at, like, similarity in found]
    return [n for n in near if is_answered(held_out[n.at], split.train[n.like])]


def findings(examples: Sequence[Example], split: Split) -> Iterator[Finding]:
    near = near_duplicates(examples)
    if near:
        rows = [_row(examples[n.at], examples[n.like], n) for n in near[:SHOWN]]
        yield finding("near_duplicates", len(near), len(examples), rows, (
            "rows are nearly the same as an earlier one (more than digits differ)",
            "what they say weighs more than all else",
            "keep some of each kind; a drawn split has them on one side (`data.near_together`)"))  # fmt: skip
    for name in ("dev", "test"):
        part: Sequence[Example] = getattr(split, name)
        found = leaks(split, name) if len(part) else []
        for level, (what, why) in LEVELS.items():
            some = [n for n in found if (n.similarity >= SAME_WORDS) == (level == "reordered")]
            if some:
                rows = [_row(part[n.at], split.train[n.like], n) for n in some[:SHOWN]]
                yield finding(f"{name}_{level}", len(some), len(part), rows, (f"{name} rows {what}", why, GROUP))


def _row(one: Example, other: Example, near: Near) -> Row:
    note = f"{near.similarity:.2f} like {other.source}: {excerpt(prompt_of(other))}"
    return Row(one.source, excerpt(prompt_of(one)), note)
