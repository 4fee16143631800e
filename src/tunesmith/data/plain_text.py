"""Texts that are learned as they are, without a prompt and without the chat template: continued pre-training.

A text is tokenised whole, between the tokens that the tokenizer puts around one, and cut into pieces at token borders.
A piece begins with the last token of the one before, as context: so every token but the first of a text is learned, and
none twice. (The same cut as lm-eval's rolling windows with one token of context.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tunesmith.data.controls import Controls
from tunesmith.data.encode import Encoder, around
from tunesmith.errors import DataError
from tunesmith.types import Example, Message, Record, Reply, Segment

BEGUN_CHARS = 120  # of a text, from which a model is made to go on to compare what it says


class PlainText:
    """`max_tokens`: of a piece, the token that it begins with included."""

    nothing = "it is one token long, and nothing before it foretells that one"  # why a text gives no piece
    learned_words = "each begins with the last token of the one before"  # of the pieces, for the plan
    scored_words = "by all of their tokens"
    note = ""  # what the verdict must say of such a score
    num_folds = 1  # of the times that a text is read for its score

    def __init__(self, tokenizer: Any, encoder: Encoder, controls: Controls, max_tokens: int) -> None:
        self._encoder, self._controls, self._max_tokens = encoder, controls, max_tokens
        self._before, self._after = around(tokenizer)

    def tokens(self, text: str) -> np.ndarray:
        """[n] int64: the whole text; strings of control tokens in it are text."""
        return np.array([*self._before, *self._ids(text), *self._after], dtype=np.int64)

    def beginning(self, example: Example) -> list[int]:
        """Token ids of the first characters, as far as a model is asked to go on from them."""
        return [*self._before, *self._ids(text_of(example)[:BEGUN_CHARS])]

    def pieces(self, example: Example) -> tuple[Record, ...]:
        """The pieces of a text in their order, all under the example's id; none where it is one token long."""
        if self._max_tokens < 2:
            raise DataError(f"data.max_tokens is {self._max_tokens}; a piece of a text needs 2 or more")
        tokens, step = self.tokens(text_of(example)), self._max_tokens - 1
        return tuple(self._record(example, tokens[at : at + step + 1]) for at in range(0, len(tokens) - 1, step))

    def records(self, example: Example) -> tuple[Record, ...]:
        """The pieces; DataError where there is nothing to learn."""
        found = self.pieces(example)
        if not found:
            raise DataError(self.nothing)
        return found

    def scored(self, example: Example) -> tuple[Record, ...]:
        """What of a text is scored: records whose learned tokens are its tokens, each once."""
        return self.pieces(example)

    def _record(self, example: Example, piece: np.ndarray) -> Record:
        weights = np.full(len(piece), example.weight, np.float32)
        weights[0] = 0  # of a text nothing foretells it; of a later piece it was learned as the last of the one before
        return Record(example.id, (Segment(piece, weights),))

    def _ids(self, text: str) -> list[int]:
        [message], cut = self._controls.shield([Message("user", text)])
        return self._encoder.one(message.content, cut)


def text_of(example: Example) -> str:
    assert isinstance(example.target, Reply), example.id
    return example.target.text
