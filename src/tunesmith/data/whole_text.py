"""Texts to tokens for models that read a text whole and give it a class: what a chat template does for the others.

The turns of a prompt are joined to one text, between the marks that the tokenizer puts around a text. The answer is one
"token": the number of the label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from tunesmith.data.encode import around
from tunesmith.data.records import Records
from tunesmith.data.render import Rendered, Renderer
from tunesmith.data.stored import Stored, listed
from tunesmith.errors import DataError, PlanError
from tunesmith.types import Example, Label, Message, Record, Segment

EVERY = 256  # examples between two lines of progress
BETWEEN = "\n\n"  # the turns of a prompt


class WholeText(Renderer):
    """`max_tokens`: of a text with its marks, and its class; longer examples are dropped, or cut at the end as
    `too_long` says; longer cases are always cut."""

    def __init__(self, tokenizer: Any, labels: Sequence[str], max_tokens: int, too_long: str = "drop") -> None:
        self._tokenizer, self._too_long = tokenizer, too_long
        self.template, self.stop_ids = "", ()  # there are none
        self.labels = tuple(labels)
        self._before, self._after = around(tokenizer)
        self.longest = max_tokens - 1  # tokens of a text with its marks
        self._room = self.longest - len(self._before) - len(self._after)
        if self._room < 1:
            raise PlanError(f"data.max_tokens is {max_tokens}, which leaves a text no token; wanted a larger number")

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the text with its marks, cut at its end where it is too long."""
        tokens = [*self._before, *self._ids(text_of(messages))[: self._room], *self._after]
        if not tokens:
            raise DataError("the prompt has no text; a class is given to a text.")
        return tokens

    def reply(self, prompt_messages: Sequence[Message], message: Message) -> list[int]:
        """The number of the label."""
        if message.content not in self.labels:
            raise DataError(f"{message.content!r} is none of the labels ({', '.join(self.labels)})")
        return [self.labels.index(message.content)]

    def text(self, reply_tokens: Sequence[int]) -> str:
        return self.labels[int(reply_tokens[0])] if len(reply_tokens) else ""

    def settled(self, reply_tokens: Sequence[int]) -> str:
        return self.text(reply_tokens)

    @cached_property
    def digest(self) -> str:
        """Of all that decides the tokens: tokenizer, labels, limits."""
        fast = self._tokenizer.is_fast
        words = (
            self._tokenizer.backend_tokenizer.to_str() if fast else repr(sorted(self._tokenizer.get_vocab().items()))
        )
        said = "\0".join([words, *self.labels, str(self.longest), self._too_long])
        return hashlib.sha256(said.encode()).hexdigest()

    def record(self, example: Example) -> Record:
        """The text, and the class as its child."""
        if not isinstance(example.target, Label):
            raise DataError(
                f"example {example.id} ({example.source}) is a {type(example.target).__name__.lower()}; a model with a "
                "class head learns labels. Name the column that holds them: --set data.columns.label=NAME"
            )
        if example.weight <= 0:
            raise DataError(f"example {example.id} ({example.source}) weighs {example.weight}. Drop it.")
        text = np.array(self.prompt(example.prompt), np.int64)
        number = np.array(self.reply(example.prompt, Message("assistant", example.target.name)), np.int64)
        weight = np.array([example.weight], np.float32)
        return Record(example.id, (Segment(text, np.zeros(len(text), np.float32)), Segment(number, weight, 0)))

    def records(self, examples: Iterable[Example], progress: Callable[[int], None] | None = None) -> Rendered:
        """All examples, in order; what cannot be used is dropped with the reason."""
        records, num = Records(), 0
        dropped: Stored[tuple[str, str]] = listed(lambda name, reason: (name, reason))
        cut: Stored[str] = listed(str)
        for num, example in enumerate(examples, 1):
            if progress is not None and num % EVERY == 1:
                progress(num - 1)
            try:
                record = self.record(example)
            except DataError as error:
                dropped.append((example.id, str(error)))
                continue
            excess = self._excess(example, record)
            if excess > 0 and self._too_long == "drop":
                dropped.append((example.id, f"{self.longest + excess} tokens, more than {self.longest}"))
                continue
            if excess > 0:
                cut.append(example.id)
            records.append(record)
        if num and not records:
            raise DataError(
                f"none of the {num} examples could be rendered. The first, {dropped[0][0]}: {dropped[0][1]}. "
                "Where they are too long, raise data.max_tokens or say data.too_long: cut"
            )
        return Rendered(records, dropped, cut, self.pieces(records[0]) if records else ())

    def pieces(self, record: Record) -> tuple[tuple[str, bool], ...]:
        """Text and class as they are shown to people: text, learned."""
        text, answer = record.segments
        shown = str(self._tokenizer.decode(text.tokens.tolist(), clean_up_tokenization_spaces=False))
        return ((shown, False), (self.text(answer.tokens.tolist()), True))

    def _excess(self, example: Example, record: Record) -> int:
        """Tokens that were cut off its text."""
        if len(record.segments[0].tokens) < self.longest:
            return 0
        return len(self._ids(text_of(example.prompt))) - self._room

    def _ids(self, text: str) -> list[int]:
        """Marks that stand in somebody's text are text."""
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [int(i) for i in found["input_ids"]]


def text_of(messages: Sequence[Message]) -> str:
    """One text of all turns."""
    return BETWEEN.join(m.content for m in messages if m.content.strip())
