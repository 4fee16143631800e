"""Texts to token ids, in batches. A text is cut at its cut characters first, so that no piece holds a control token
that is only text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tunesmith.data.controls import Controls
from tunesmith.errors import DataError

ANCHOR = "\n"  # tokenised before what is not a text's beginning, by tokenizers that put a space before a beginning


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer puts before and behind a text."""
    bare, whole = (list(tokenizer("x", add_special_tokens=on)["input_ids"]) for on in (False, True))
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:at], whole[at + len(bare) :]


class Encoder:
    """Encodes (text, cut character) pairs; "" as the cut character: not cut."""

    def __init__(self, tokenizer: Any, controls: Controls) -> None:
        self._tokenizer, self._controls = tokenizer, controls
        anchor, plain, behind = self._call([ANCHOR, "a", ANCHOR + "a"])
        is_prefix = behind[: len(anchor)] == anchor
        self._anchor: list[int] = anchor if is_prefix and behind[len(anchor) :] != plain else []

    def one(self, text: str, cut: str, *, is_inside: bool = False) -> list[int]:
        return [int(i) for i in self.all([(text, cut)], is_inside=is_inside)[0]]

    def all(self, texts: Sequence[tuple[str, str]], *, is_inside: bool = False) -> list[np.ndarray]:
        """Ids [n] of each text. `is_inside`: the texts go on where others ended, so no space is put before them."""
        pieces: list[str] = []
        places: list[tuple[int, int]] = []  # pieces of each text
        inside: list[bool] = []
        for text, cut in texts:
            parts = [part for part in text.split(cut) if part] if cut else [text]
            places.append((len(pieces), len(pieces) + len(parts)))
            inside += [is_inside or n > 0 for n in range(len(parts))]
            pieces += parts
        ids = self._pieces(pieces, inside)
        found = [np.array([i for part in ids[a:b] for i in part], dtype=np.int64) for a, b in places]
        for (text, cut), tokens in zip(texts, found):
            if cut:
                self._check(text, tokens)
        return found

    def _pieces(self, pieces: list[str], inside: list[bool]) -> list[list[int]]:
        if not self._anchor:
            return self._call(pieces)
        found = self._call([ANCHOR + piece if is_inside else piece for piece, is_inside in zip(pieces, inside)])
        num = len(self._anchor)
        for n, (ids, is_inside) in enumerate(zip(found, inside)):
            if is_inside:  # a piece that melts into the anchor is tokenised as a beginning
                found[n] = ids[num:] if ids[:num] == self._anchor else self._call([pieces[n]])[0]
        return found

    def _call(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._is_plain and len(texts) > 1:
            self._tokenizer(texts[:1], add_special_tokens=False, verbose=False)  # nothing is cut or padded from here on
            return [e.ids for e in self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        found = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    @cached_property
    def _is_plain(self) -> bool:
        """Whether the tokenizer hands texts to its library as they are, which can then be asked without the rest."""
        names, plain = ("__call__", "_encode_plus", "set_truncation_and_padding"), PreTrainedTokenizerFast
        return all(getattr(type(self._tokenizer), name, None) is getattr(plain, name) for name in names)

    def _check(self, text: str, ids: np.ndarray) -> None:
        wanted, got = self._controls.count_in(text), self._controls.count(ids)
        if wanted != got:
            raise DataError(
                f"a text that holds control tokens could not be made harmless: {got} control tokens where the "
                f"template writes {wanted}. "
                "Take them out of the text."
            )
