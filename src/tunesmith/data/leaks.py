"""Rows that are nearly the same: within training, and between held-out rows and training, which no key finds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np

from tunesmith.data import alike
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of, replies_of
from tunesmith.data.near import Bands, Words, near_earlier
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.split import Split
from tunesmith.data.stored import Stored, listed
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
    "say what such rows share (a document, a customer, a template) as `data.columns.group`: then they stay in one "
    "split; or drop the training rows that are named"
)


@dataclass(frozen=True, slots=True)
class Near:
    at: int
    like: int
    similarity: float  # 0 to 1, of their words, the rare ones weighing more


def near_duplicates(examples: Sequence[Example], step: Step = untold) -> Sequence[Near]:
    """Of rows that differ in more than case, white space and digits: each with one before it that it is nearly like."""
    text = column(examples, "text")
    is_first = alike.first_like(text) == np.arange(len(text), dtype=np.uint32)
    texts = ("\n".join((*(m.content for m in e.prompt), *replies_of(e))) for e in examples)
    words, near = Words(counted(texts, len(text), "rows read, to find near copies", step)), stored()
    for found in near_earlier(words, Bands(words, step), is_first, is_first):
        near.append(Near(*found))
    return near


def stored() -> Stored[Near]:
    """In a file: of rows made from templates nearly each one is found."""
    return listed(Near)


def leaks(split: Split, name: str, step: Step = untold) -> Sequence[Near]:
    """Of the held-out rows that no training row equals but for case, white space and digits: each with a training row
    whose prompt is nearly the same, and whose reply, where there are replies, is like its own: "what causes X" and
    "what is X" are two questions."""
    held_out: Sequence[Example] = getattr(split, name)
    train = column(split.train, "masked")
    known = alike.places(np.unique(train), column(held_out, "masked")) >= 0
    asked = (prompt_of(example) for example in chain(split.train, held_out))
    words = Words(counted(asked, len(split.train) + len(held_out), f"prompts read, to find leaks into {name}", step))
    is_train = np.arange(len(words)) < len(train)
    found = near_earlier(words, Bands(words, step), np.concatenate([np.zeros(len(train), bool), ~known]), is_train)
    near = stored()
    for at, like, similarity in found:
        if is_answered(held_out[at - len(train)], split.train[like]):
            near.append(Near(at - len(train), like, similarity))
    return near


def findings(examples: Sequence[Example], split: Split, step: Step = untold) -> Iterator[Finding]:
    near = near_duplicates(examples, step)
    if near:
        rows = [_row(examples[n.at], examples[n.like], n) for n in near[:SHOWN]]
        made = finding("near_duplicates", len(near), len(examples), rows, (
            "rows are nearly the same as an earlier one (more than digits differ)",
            "what they say weighs more than all else",
            "keep some of each kind, or one; a drawn split has them together (`data.near_together`)"))  # fmt: skip
        yield replace(made, every=lambda: (examples[n.at].source for n in near))
    for name in ("dev", "test"):
        part: Sequence[Example] = getattr(split, name)
        found = leaks(split, name, step) if len(part) else ()
        for level, (what, why) in LEVELS.items():
            is_level = partial(_of_level, level)
            num = sum(map(is_level, found))
            if num:
                rows = [_row(part[n.at], split.train[n.like], n) for n in islice(filter(is_level, found), SHOWN)]
                kind = f"{name}_{level}"
                made = finding(kind, num, len(part), rows, (f"{name} rows {what}", why, GROUP))
                yield replace(made, every=partial(_training, split, found, level))


def _of_level(level: str, near: Near) -> bool:
    return (near.similarity >= SAME_WORDS) == (level == "reordered")


def _training(split: Split, found: Iterable[Near], level: str) -> Iterator[str]:
    yield from (split.train[n.like].source for n in found if _of_level(level, n))


def _row(one: Example, other: Example, near: Near) -> Row:
    note = f"{near.similarity:.2f} like {other.source}: {excerpt(prompt_of(other))}"
    return Row(one.source, excerpt(prompt_of(one)), note)
