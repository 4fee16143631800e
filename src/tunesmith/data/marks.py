"""Whether somebody found a reply good or bad, as files say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.stored import Rows
from tunesmith.errors import DataError
from tunesmith.types import Example, Marked, Message, Pair

# Columns that say it beside a prompt and a reply: TRL's, LLaMA-Factory's, those of forms and exports
NAMES = ("label", "kto_tag", "mark", "thumb", "thumbs", "feedback", "liked", "is_good", "desirable", "vote")
GOOD = {"true", "1", "good", "up", "thumbs_up", "thumbs up", "yes", "desirable", "positive", "like", "liked", "👍"}
BAD = {
    "false", "0", "-1", "bad", "down", "thumbs_down", "thumbs down", "no", "undesirable", "negative", "dislike", "👎",
}  # fmt: skip
MOST_TRIES = 50


def is_good(value: Any) -> bool | None:
    """None where the value says neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().lower()
    return True if text in GOOD else False if text in BAD else None


def column_of(known: Mapping[str, str], sample: Sequence[Mapping[str, Any]]) -> str | None:
    """The first that holds marks of both kinds in the sample."""
    return next((name for name, kinds in held(known, sample) if len(kinds) == 2), None)


def held(known: Mapping[str, str], sample: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, set[bool | None]]]:
    """The columns of NAMES that hold marks in the sample, and nothing else; and which. A label may be any word: there
    true and false alone are marks."""
    for name in (name for name in NAMES if name in known):
        values = [row[known[name]] for row in sample if row.get(known[name]) is not None]
        is_sure = name != "label" or {str(value).strip().lower() for value in values} <= {"true", "false"}
        kinds = {is_good(value) for value in values}
        if is_sure and kinds and None not in kinds:
            yield known[name], kinds


def notes(ignored: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> list[str]:
    """That a column which is not read may hold marks: its first rows have one alone, as in a file that is sorted."""
    return [
        f"{name!r} says {'good' if True in kinds else 'bad'} of each of the first {len(sample)} replies, and all are "
        f"learned alike. If it marks them as good or bad: --set data.columns.mark={name}"
        for name, kinds in held({name.strip().lower(): name for name in ignored}, sample)
        if len(kinds) == 1
    ]


class Matched(Rows[Example]):
    """Each marked reply beside another prompt's, as a pair of (own, other): of the pool the one that is half of its
    rows away, or the next behind it whose prompt and reply are others."""

    def __init__(self, examples: Sequence[Example], pool: Sequence[Example]) -> None:
        self.examples, self.pool = examples, pool

    def __len__(self) -> int:
        return len(self.examples)

    def _one(self, at: int) -> Example:
        example, num = self.examples[at], len(self.pool)
        own = message_of(example)
        for step in range(min(MOST_TRIES, num)):
            there = self.pool[(at + num // 2 + step) % num]
            other = message_of(there)
            if there.prompt != example.prompt and other.content.strip() != own.content.strip():
                return replace(example, target=Pair(own, other))
        raise DataError(
            f"{example.source}: among {min(MOST_TRIES, num)} rows there is no other reply to another prompt, which "
            "learning from marks (KTO) compares with. Give rows with more prompts, in any order but sorted"
        )


def message_of(example: Example) -> Message:
    assert isinstance(example.target, Marked)
    return example.target.message
