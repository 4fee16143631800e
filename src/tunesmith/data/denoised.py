"""Plain texts of which a part is taken out, to be told from the rest: how encoders and encoder-decoders go on with
pre-training.

A text is cut into pieces that do not overlap, each between the marks that the tokenizer puts around one. What is taken
out is drawn by a `Corruption`, anew in each epoch; a record that is kept is the draw of the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from tunesmith.data.controls import Controls
from tunesmith.data.encode import Encoder
from tunesmith.data.masking import Masks, taken_apart
from tunesmith.data.plain_text import PlainText, text_of
from tunesmith.data.render import Renderer
from tunesmith.data.spans import Spans
from tunesmith.errors import DataError, PlanError
from tunesmith.types import Example, Record


class Corruption(Protocol):
    """What is taken out of a text, [n] tokens without marks."""

    @property
    def num_folds(self) -> int: ...  # most of the records that a score takes of a piece
    @property
    def learned_words(self) -> str: ...  # how a piece is learned, and scored: for the plan
    @property
    def scored_words(self) -> str: ...

    def room(self, max_tokens: int) -> int: ...  # tokens of a text in a piece of so many
    def is_open(self, text: np.ndarray) -> np.ndarray: ...  # [n] bool: what may be taken out
    def drawn(self, name: str, text: np.ndarray, weight: float, epoch: int) -> Record: ...  # for learning
    def folds(self, name: str, text: np.ndarray) -> list[Record]: ...  # for a score: each token is taken out once
    def text(self, record: Record) -> np.ndarray: ...  # what a record was made of


class Denoised(PlainText):
    """`making`: the corruption, of what the tokenizer puts before and behind a text."""

    nothing = "it has no token that could be taken out"
    note = (
        "each token was told from the text around it, a part of it hidden at a time: these bits are not those of a "
        "model that writes on, and not comparable with them."
    )

    def __init__(
        self, tokenizer: Any, encoder: Encoder, controls: Controls, max_tokens: int,
        making: Callable[[tuple[list[int], list[int]]], Corruption],
    ) -> None:  # fmt: skip
        super().__init__(tokenizer, encoder, controls, max_tokens)
        self._corruption = making((self._before, self._after))
        self._room = self._corruption.room(max_tokens)
        self.num_folds = self._corruption.num_folds
        self.learned_words, self.scored_words = self._corruption.learned_words, self._corruption.scored_words

    def pieces(self, example: Example) -> tuple[Record, ...]:
        """As they are learned in the first epoch, all under the example's id."""
        if example.weight <= 0:
            raise DataError(f"it weighs {example.weight}. Drop it")
        return tuple(self._corruption.drawn(example.id, t, example.weight, 0) for t in self._cut(example))

    def scored(self, example: Example) -> tuple[Record, ...]:
        return tuple(fold for text in self._cut(example) for fold in self._corruption.folds(example.id, text))

    def redrawn(self, record: Record, epoch: int) -> Record:
        """The same piece as another epoch has it."""
        weight = max(float(s.weights.max()) for s in record.segments)
        return self._corruption.drawn(record.example_id, self._corruption.text(record), weight, epoch)

    def _cut(self, example: Example) -> list[np.ndarray]:
        if self._room < 2:
            raise PlanError(
                f"data.max_tokens is {self._max_tokens}, which leaves a piece of a text {max(0, self._room)} tokens; "
                "wanted a larger number"
            )
        ids = np.array(self._ids(text_of(example)), np.int64)
        pieces = np.array_split(ids, max(1, -(-len(ids) // self._room)))  # of like length: no last one without context
        return [piece for piece in pieces if self._corruption.is_open(piece).any()]


class MaskedText(Renderer):
    """For encoders with their masked-language head, which read texts and answer nothing. `max_tokens`: of a piece with
    its marks; `vocabulary`: tokens that the model knows."""

    def __init__(self, tokenizer: Any, max_tokens: int, vocabulary: int, seed: int) -> None:
        self._tokenizer, self._max_tokens, self._too_long, self.is_apart = tokenizer, max_tokens, "drop", False
        self.template, self.stop_ids, self.longest = "", (), max_tokens  # no turns, and nothing that ends one
        controls = Controls(tokenizer, "")
        making = lambda around: Masks.of(tokenizer, controls, around, vocabulary, seed)
        self._encoder = Encoder(tokenizer, controls)
        self.plain: Denoised = Denoised(tokenizer, self._encoder, controls, max_tokens, making)

    def prompt(self, messages: object) -> list[int]:
        raise PlanError(
            "this model tells hidden tokens from the text around them; it is asked nothing and answers nothing. Tune "
            "it on labels (its merged folder as the model), or open it in transformers as AutoModelForMaskedLM"
        )

    def redrawn(self, record: Record, epoch: int) -> Record:
        return self.plain.redrawn(record, epoch)

    def pieces(self, record: Record) -> tuple[tuple[str, bool], ...]:
        """The text as it is in truth, cut where it changes between shown and hidden."""
        tokens, hidden, wanted = taken_apart(record)
        tokens[hidden] = wanted
        is_hidden = np.isin(np.arange(len(tokens)), hidden)
        edges = [0, *(np.flatnonzero(is_hidden[1:] != is_hidden[:-1]) + 1).tolist(), len(tokens)]
        decode = self._tokenizer.decode
        return tuple(
            (str(decode(tokens[a:b].tolist(), clean_up_tokenization_spaces=False)), bool(is_hidden[a]))
            for a, b in pairwise(edges)
        )


class SpanText(Renderer):
    """For encoder-decoders: prompts and replies as ever, and plain texts by span corruption."""

    def __init__(self, tokenizer: Any, max_tokens: int, too_long: str, seed: int) -> None:
        super().__init__(tokenizer, max_tokens, too_long, "seq2seq")
        making = lambda around: Spans.of(tokenizer, around, seed)
        self.plain: Denoised = Denoised(tokenizer, self._encoder, self._controls, max_tokens, making)

    def redrawn(self, record: Record, epoch: int) -> Record:
        return self.plain.redrawn(record, epoch)
