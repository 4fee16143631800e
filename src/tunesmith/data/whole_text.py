"""Texts to tokens for models that read a text whole and give it a class: what a chat template does for the others.

The turns of a prompt are joined to one text, between the marks that the tokenizer puts around a text. The answer is one
"token", the number of the label; where several labels may fit, one for each of them: 2k (no) or 2k + 1 (yes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tunesmith.data.columns import NO_LABEL
from tunesmith.data.encode import around
from tunesmith.data.render import Renderer
from tunesmith.errors import DataError, PlanError
from tunesmith.types import Example, Label, Message, Record, Reply, Segment

BETWEEN = "\n\n"  # the turns of a prompt


class WholeText(Renderer):
    """`max_tokens`: of a text with its marks, and its class; longer examples are dropped, or cut at the end as
    `too_long` says; longer cases are always cut. `told`: where several labels may fit, those that an answer names."""

    def __init__(
        self, tokenizer: Any, labels: Sequence[str], max_tokens: int, too_long: str = "drop",
        told: Callable[[str], frozenset[str]] | None = None,
    ) -> None:  # fmt: skip
        self._tokenizer, self._too_long = tokenizer, too_long
        self.template, self.stop_ids = "", ()  # there are none
        self.labels, self._told = tuple(labels), told
        self.several = self.labels if told is not None else ()
        self._before, self._after = around(tokenizer)
        self.longest = max_tokens - 1  # tokens of a text with its marks
        self._max_tokens = self.longest + (len(self.several) or 1)  # the answer takes no room of the context
        self._room = self.longest - len(self._before) - len(self._after)
        if self._room < 1:
            raise PlanError(f"data.max_tokens is {max_tokens}, which leaves a text no token; wanted a larger number")

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the text with its marks, cut at its end where it is too long."""
        return self._marked(self._ids(text_of(messages))[: self._room])

    def reply(self, prompt_messages: Sequence[Message], message: Message) -> list[int]:
        """The number of the label; of several, the no or yes of each."""
        names = {message.content} if self._told is None else self._told(message.content) - {NO_LABEL}
        odd = sorted(names - set(self.labels))
        if odd:
            raise DataError(f"{odd[0]!r} is none of the labels ({', '.join(self.labels)})")
        if self._told is None:
            return [self.labels.index(message.content)]
        return [2 * k + (label in names) for k, label in enumerate(self.labels)]

    def choice(self, prompt_messages: Sequence[Message], label: str) -> list[int]:
        """The number of the label; of several, its yes."""
        return [2 * self.labels.index(label) + 1] if self.several else super().choice(prompt_messages, label)

    def text(self, reply_tokens: Sequence[int]) -> str:
        return self.settled(reply_tokens) or (NO_LABEL if self.several else "")

    def settled(self, reply_tokens: Sequence[int]) -> str:
        tokens = list(map(int, reply_tokens))
        if self.several:
            return ", ".join(self.labels[token // 2] for token in tokens if token % 2)
        return self.labels[tokens[0]] if tokens else ""

    def record(self, example: Example) -> Record:
        """The text, however long it is, and the class as its child, or the answer to each."""
        return self._with_class(example, self._marked(self._ids(text_of(example.prompt))))

    def _shortened(self, example: Example) -> Record:
        """The same with the text cut at its end."""
        return self._with_class(example, self.prompt(example.prompt))

    def _with_class(self, example: Example, tokens: list[int]) -> Record:
        if not isinstance(example.target, Label) and not (self.several and isinstance(example.target, Reply)):
            raise DataError(
                f"example {example.id} ({example.source}) is a {type(example.target).__name__.lower()}; a model with a "
                "class head learns labels. Name the column that holds them: --set data.columns.label=NAME"
            )
        if example.weight <= 0:
            raise DataError(f"example {example.id} ({example.source}) weighs {example.weight}. Drop it.")
        numbers = self.reply(example.prompt, Message("assistant", example.target.text))
        weights = np.full(len(numbers), example.weight, np.float32)
        text = Segment(np.array(tokens, np.int64), np.zeros(len(tokens), np.float32))
        return Record(example.id, (text, Segment(np.array(numbers, np.int64), weights, 0)))

    def _each(self, examples: Iterable[Example]) -> Iterator[tuple[Example, tuple[Record, ...], str]]:
        for example in examples:
            try:
                yield example, (self.record(example),), ""
            except DataError as error:
                yield example, (), str(error)

    def pieces(self, record: Record) -> tuple[tuple[str, bool], ...]:
        """Text and class as they are shown to people: text, learned."""
        text, answer = record.segments
        shown = str(self._tokenizer.decode(text.tokens.tolist(), clean_up_tokenization_spaces=False))
        return ((shown, False), (self.text(answer.tokens.tolist()), True))

    def _marked(self, ids: list[int]) -> list[int]:
        tokens = [*self._before, *ids, *self._after]
        if not tokens:
            raise DataError("the prompt has no text; a class is given to a text.")
        return tokens

    def _ids(self, text: str) -> list[int]:
        """Marks that stand in somebody's text are text."""
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [int(i) for i in found["input_ids"]]


def text_of(messages: Sequence[Message]) -> str:
    """One text of all turns."""
    return BETWEEN.join(m.content for m in messages if m.content.strip())
