"""What is asked of every example, over and over: its key, what it is like, its label, its length.

One pass over the examples writes them to a file, so that splitting and auditing a million examples reads numbers, and
one column at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from tunesmith.data import alike
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.stored import Chosen, Stored, open_unnamed, put
from tunesmith.types import Example, Label, Marked, Pair, Ranked, Reply

PIECE = 4096  # examples that are worked out at a time
DIGITS = re.compile(r"\d+")
KINDS = ("Reply", "Label", "Pair", "Task", "Marked", "Ranked")
NUM_ANSWERED = 2  # the first of them have one answer
DTYPE = np.dtype(
    [
        ("key", alike.DTYPE),  # what must not stand in two splits
        ("prompt", alike.DTYPE),  # without differences of case, width and white space
        ("masked", alike.DTYPE),  # and of digits
        ("text", alike.DTYPE),  # that, with the answer
        ("again", "?"),  # identical to an earlier one
        ("synthetic", "?"),
        ("kind", "u1"),  # of target, as in KINDS
        ("label", "i4"),  # number of its name; -1: has none
        ("chars", "i4"),  # of prompt and answer; 0 where there is no single answer
        ("when", "f8"),  # seconds since 1970; nan: not said
    ]
)


class Traits:
    """Of examples that no longer change."""

    def __init__(self, examples: Sequence[Example], step: Step = untold) -> None:
        self._numbers: dict[str, int] = {}
        self._file = open_unnamed(self)
        stream, self._num = counted(examples, len(examples), "rows looked at", step), 0
        while some := list(islice(stream, PIECE)):
            rows = np.array([self._row(example) for example in some], DTYPE)
            put(self._file, rows.tobytes())
            self._num += len(some)

    def column(self, name: str) -> np.ndarray:
        found = np.empty(self._num, DTYPE[name])
        for begin in range(0, self._num, PIECE):
            size = min(PIECE, self._num - begin) * DTYPE.itemsize
            rows = np.frombuffer(os.pread(self._file, size, begin * DTYPE.itemsize), DTYPE)
            found[begin : begin + PIECE] = rows[name]
        return found

    @property
    def names(self) -> list[str]:
        """Of the labels, by number."""
        return list(self._numbers)

    def _row(self, example: Example) -> tuple[Any, ...]:
        target = example.target
        turns = _turns(example)
        prompt = "\n".join(f"{role}: {text}" for role, text in turns)
        answer = target.replies[0].content if isinstance(target, (Pair, Ranked, Marked)) else ""
        answer = target.text if isinstance(target, (Reply, Label)) else answer
        label = self._numbers.setdefault(target.name, len(self._numbers)) if isinstance(target, Label) else -1
        chars = sum(len(m.content) for m in example.prompt) + len(answer)
        texts = (prompt, masked(prompt), masked(f"{prompt}\0{normalised(answer)}"))
        return (
            bytes.fromhex(_key(example.group, turns)), *map(alike.digest, texts), not example.id.endswith("-1"),
            example.is_synthetic, KINDS.index(type(target).__name__), label, chars,
            np.nan if example.when is None else example.when,
        )  # fmt: skip


class Traited(Stored[Example]):
    """Looked at once, when all are there."""

    step: Step = staticmethod(untold)  # how far looking has come

    @cached_property
    def traits(self) -> Traits:
        return Traits(self, self.step)


def traits_of(examples: Sequence[Example]) -> Traits:
    """Kept beside examples that stand in a file; others are looked at anew."""
    return examples.traits if isinstance(examples, Traited) else Traits(examples)


def column(examples: Sequence[Example], name: str) -> np.ndarray:
    """One of DTYPE's, of each example."""
    if isinstance(examples, Chosen):
        return column(examples.whole, name)[examples.at]
    return traits_of(examples).column(name)


def label_names(examples: Sequence[Example]) -> list[str]:
    """Of the numbers in the column "label"."""
    return traits_of(examples.whole if isinstance(examples, Chosen) else examples).names


def label_counts(examples: Sequence[Example]) -> Counter[str]:
    """How many have each label."""
    whole, chosen = (examples.whole, examples.at) if isinstance(examples, Chosen) else (examples, slice(None))
    traits = traits_of(whole)
    counts = np.bincount(traits.column("label")[chosen] + 1, minlength=1)[1:].tolist()
    return Counter({name: num for name, num in zip(traits.names, counts) if num})


def key(example: Example) -> str:
    """What must not stand in two splits: the group, or else the prompt (of a plain text the text) without differences
    of case, width and white space.
    """
    return _key(example.group, _turns(example))


def _turns(example: Example) -> list[tuple[str, str]]:
    """The roles and texts of what is given; a plain text is all that there is."""
    if example.is_text and isinstance(example.target, Reply):
        return [("text", normalised(example.target.text))]
    return [(m.role, normalised(m.content)) for m in example.prompt]


def _key(group: str | None, turns: Sequence[tuple[str, str]]) -> str:
    said = f"group\0{group}" if group is not None else "\0\0".join(["prompt", *(f"{r}\0{t}" for r, t in turns)])
    return hashlib.sha256(said.encode()).hexdigest()[: 2 * alike.BYTES]


def normalised(text: str) -> str:
    """Without differences of case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def masked(text: str) -> str:
    """Digits as 0, so that twins from one template are found."""
    return DIGITS.sub("0", text)
