"""Answers of a given form: tokens that would leave a JSON schema or a pattern are not drawn.

llguidance (extra `structured`) says which tokens may come next; what is not among them has probability 0, and the
log-probabilities that a sampler tells are of what is left. An answer that stopped is of the form; one that was cut off
at its limit of tokens need not be.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.errors import InputError

# one space where Python's json puts one, and none elsewhere: a small model would write white space to its limit
SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Form:
    """What answers have to be, compiled for one tokenizer. Used for any number of answers."""

    tokenizer: Any  # llguidance's own
    grammar: str

    def start(self, num: int) -> Guides:
        """For answers that begin now."""
        import llguidance

        return Guides([llguidance.LLMatcher(self.tokenizer, self.grammar) for _ in range(num)])


class Guides:
    """Where each of some answers stands in its form."""

    def __init__(self, matchers: Sequence[Any]) -> None:
        self.matchers = list(matchers)

    def masked(self, logits_V: Tensor, rows: Sequence[int]) -> Tensor:
        """[B, V] logits of these answers, with -inf at each token that may not come next."""
        bits = np.stack([np.frombuffer(self.matchers[row].compute_bitmask(), np.uint8) for row in rows])
        allowed = np.unpackbits(bits, axis=1, bitorder="little")[:, : logits_V.shape[1]].astype(bool)
        allowed = np.pad(allowed, ((0, 0), (0, logits_V.shape[1] - allowed.shape[1])))
        return logits_V.masked_fill(~torch.from_numpy(allowed).to(logits_V.device), float("-inf"))

    def add(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """What was drawn for them."""
        for row, token in zip(rows, tokens, strict=True):
            took = self.matchers[row].consume_token(token)
            assert took, f"token {token} was drawn and may not stand there: {self.matchers[row].get_error()}"


@lru_cache(maxsize=2)
def tokens_of(tokenizer: Any, stop_ids: tuple[int, ...]) -> Any:
    """The tokenizer as llguidance reads it, which takes a second."""
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer, eos_token=list(stop_ids))


def form(tokenizer: Any, stop_ids: Sequence[int], *, schema: Any = None, pattern: str = "") -> Form:
    """Of a JSON schema, or of a pattern that fits the whole answer. InputError where llguidance is not there, or does
    not take it."""
    if importlib.util.find_spec("llguidance") is None:
        raise InputError("answers of a given form need the llguidance package: pip install 'tunesmith[structured]'")
    import llguidance

    what = f"the pattern {pattern!r}" if pattern else "the JSON schema"
    try:
        own = tokens_of(tokenizer, tuple(stop_ids))
    except ValueError as error:  # SentencePiece's pieces, as T5 has them
        raise InputError(
            f"llguidance cannot read this model's tokenizer, so no form can be followed: {error}"
        ) from None
    try:
        made = llguidance.LLMatcher
        if pattern:
            grammar = made.grammar_from_regex(pattern)
        else:
            grammar = made.grammar_from_json_schema(json.dumps(schema), overrides=SPACED)  # type: ignore[arg-type]
        trouble = made.validate_grammar(grammar, own)
    except ValueError as error:
        trouble = str(error)
    if trouble:
        raise InputError(f"{what} cannot be followed: {' '.join(str(trouble).split())[:300]}")
    return Form(own, grammar)
