"""A finding of the audit: what is wrong, in how many rows, which these are, why it hurts, and what mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from tunesmith.data.personal import masked
from tunesmith.data.remedies import COMMANDS
from tunesmith.types import Example, Label, Marked, Pair, Ranked, Reply

SHOWN = 20  # rows of each kind that are shown; counts are of all
EXCERPT = 160  # characters of a row

# kind -> what was found, why it hurts, what mends it: done by its command (`remedies`)
WORDS: Mapping[str, tuple[str, str, str]] = {
    "rejected": (
        "rows could not be read",
        "they are neither learned from nor asked",
        "mend the lines that are named, or leave them out, with a list of them",
    ),
    "too_long": (
        "training rows have more tokens than `data.max_tokens`",
        "they are not learned from",
        "let more tokens in, or cut their prompts (`--set data.too_long=cut`)",
    ),
    "unusable": (
        "training rows cannot be learned from",
        "a run leaves them out, each time, for the reason that stands beside each",
        "mend what the reasons name, or drop these rows",
    ),
    "cut": (
        "training rows had their prompt cut in the middle to fit `data.max_tokens`",
        "held-out prompts are asked whole: what is learned is not what is asked",
        "let more tokens in, or shorten the prompts",
    ),
    "exact_duplicates": (
        "rows are identical to an earlier one",
        "they count several times, and what they say is learned by heart",
        "drop them",
    ),
    "masked_duplicates": (
        "rows differ from an earlier one in case, white space or digits only",
        "a template that is repeated outweighs everything else",
        "keep some of each template, or the first alone; where all are wanted, "
        "say a column that they share in `data.columns.group`, so that they stay in one split",
    ),
    "contradictions": (
        "rows stand with a prompt that has more than one label",
        "no model can get all of them right: they cap the score",
        "decide on one label for each prompt, or drop all of these rows",
    ),
    "twins": (
        "test rows stand in training once digits are masked",
        "the test is easier than use, and its score too high",
        "say the column that such rows share in `data.columns.group`, or drop the training rows that stand there",
    ),
    "moved": (
        "rows also stood in another split and were taken out",
        "they would be learned and asked; without them there is less to learn from",
        "a run takes them out by itself, every time; drop them from the training files to be done with it",
    ),
    "rare_labels": (
        "training rows have a label that fewer than 8 of them have",
        "hardly anything can be learned about such a label, and nothing proven",
        "add rows of these labels, join them with others, or drop them",
    ),
    "one_label": (
        "training rows have one and the same label",
        "always saying it is right as often: look at the score per label",
        "add rows of the others, and name a metric that counts labels alike",
    ),
    "unseen_labels": (
        "test rows have a label that training never shows",
        "no model can learn them",
        "add training rows of these labels, or draw the test anew, so that each label has its share in both",
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One of the rows behind a finding."""

    source: str  # file:line
    text: str  # a piece of it, without personal data
    note: str = ""  # what is wrong just there: the row that it is like, the label that would fit


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    what: str  # goes behind the count: "rows are identical to an earlier one"
    count: int
    of: int  # rows that were looked at
    why: str
    mend: str
    command: str  # that does it; in capitals what the person typed
    rows: tuple[Row, ...] = ()  # at most SHOWN
    every: Callable[[], Iterable[str]] | None = None  # file:line of all training rows that `--drop` takes

    def as_dict(self) -> dict[str, Any]:
        """As audit.json lists it."""
        said = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "every"}
        return {**said, "rows": [asdict(row) for row in self.rows], "share": self.count / max(1, self.of)}


def finding(kind: str, count: int, of: int, rows: Iterable[Row] = (), words: Sequence[str] | None = None) -> Finding:
    what, why, mend = WORDS[kind] if words is None else words
    return Finding(kind, what, count, of, why, mend, COMMANDS[kind], tuple(rows)[:SHOWN])


def excerpt(text: str, at: int = 0) -> str:
    """A piece of the text around `at` on one line, personal data and secrets replaced."""
    begin = max(0, at - EXCERPT // 4) if at > EXCERPT // 2 else 0
    piece = re.sub(r"\s+", " ", masked(text[begin : begin + 2 * EXCERPT])).strip()
    return ("…" if begin else "") + piece[:EXCERPT] + ("…" if len(piece) > EXCERPT else "")


def texts_of(example: Example) -> Iterator[tuple[str, str]]:
    """(role, text) of everything that a person wrote in it: the prompt's turns, then the replies."""
    for message in example.prompt:
        yield message.role, message.content
    for text in replies_of(example):
        yield "assistant", text


def replies_of(example: Example) -> tuple[str, ...]:
    """What is learned or judged of it; () for a prompt without replies."""
    target = example.target
    if isinstance(target, (Reply, Label)):
        return (target.text,)
    return tuple(m.content for m in target.replies) if isinstance(target, (Pair, Ranked, Marked)) else ()


def prompt_of(example: Example) -> str:
    """What is asked, as one text; of a plain text the text itself."""
    return "\n".join(m.content for m in example.prompt) or "\n".join(replies_of(example))
