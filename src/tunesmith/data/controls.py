"""Control tokens: what the template writes is control, what stands in someone's text is text.

In text that holds the string of a control token, a private-use character is put behind the string's first character
before the template runs, and the rendered text is cut there before it is tokenised: no piece can match. Clean text
takes the ordinary path, so that what is learned equals what is served, token by token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.types import Message

# Where texts are cut; the first that the conversation does not use is taken.
CUTS = tuple(chr(code) for code in range(0xF0000, 0xF0020))


class Controls:
    """The control tokens of a tokenizer under a template.

    Special tokens are control everywhere. Added tokens that are not special but stand in the template (Qwen's
    `<tool_call>`, `<think>`) are control in what users, systems and tools say; an assistant may say them, as the model
    itself does.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        added = {
            token.content: (index, token)
            for index, token in tokenizer.added_tokens_decoder.items()
            if not token.content.isspace()
        }
        special = {text for text, (_, token) in added.items() if token.special} | set(tokenizer.all_special_tokens)
        written = {text for text in added if text in template}
        self.strings = frozenset(text for text in special | written if text)
        self._of_model = _any_of(special)
        self._of_others = _any_of(self.strings)
        self._anywhere = _any_of(self.strings)
        ids = [tokenizer.convert_tokens_to_ids(text) for text in self.strings]
        self._is_control = np.zeros(max([len(tokenizer), *(i + 1 for i in ids)]), dtype=bool)
        self._is_control[ids] = True
        # Some added tokens are matched in normalised text (a full-width bar becomes a plain one)
        normalised = any(text in added and added[text][1].normalized for text in self.strings)
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._normalizer = backend.normalizer if normalised and backend is not None else None

    def where(self, ids: np.ndarray) -> np.ndarray:
        """[n] bool: which of the ids are control."""
        last = len(self._is_control) - 1  # ids beyond it are of tokens that were added with a gap, and are text
        return self._is_control[np.minimum(ids, last)] & (ids <= last)

    def count(self, ids: np.ndarray) -> int:
        """How many control ids there are."""
        return int(self.where(ids).sum())

    def count_in(self, text: str) -> int:
        """How many control tokens a tokenizer would find in rendered text."""
        return len(self._anywhere.findall(text))

    def first_in(self, text: str) -> re.Match[str] | None:
        return self._anywhere.search(text)

    def last_in(self, text: str) -> re.Match[str] | None:
        found = list(self._anywhere.finditer(text))
        return found[-1] if found else None

    def shield(self, messages: Sequence[Message], *, edges: bool = False) -> tuple[list[Message], str]:
        """The messages with cuts in them, and the cut character ("" where nothing needed one).

        `edges` cuts every text behind its first and before its last character as well, so that texts that the template
        joins, each holding a part of a control token, do not make one.
        """
        texts = [text for message in messages for text in _strings([message.content, dict(message.extra)])]
        if not edges and not any(self._is_dirty(text) for text in texts):
            return list(messages), ""
        cut = next((c for c in CUTS if not any(c in text for text in texts)), None)
        if cut is None:
            raise DataError("a text uses all private-use characters from U+F0000 to U+F001F; take them out.")
        return [self._shielded(message, cut, edges=edges) for message in messages], cut

    def _is_dirty(self, text: str) -> bool:
        return self._of_others.search(text) is not None or self._is_dirty_once_normalised(text)

    def _is_dirty_once_normalised(self, text: str) -> bool:
        return self._normalizer is not None and self._of_others.search(self._normalizer.normalize_str(text)) is not None

    def _shielded(self, message: Message, cut: str, *, edges: bool) -> Message:
        pattern = self._of_model if message.role == "assistant" else self._of_others

        def cut_inside(text: str) -> str:
            while pattern.search(text):
                text = pattern.sub(lambda m: _cut_first(m.group(), cut), text)
            if self._normalizer is not None and pattern.search(self._normalizer.normalize_str(text)):
                text = cut.join(text)
            return text

        def cut_up(text: str) -> str:
            return _cut_edges(cut_inside(text), cut) if edges else cut_inside(text)

        # a template reads fields by their names: a cut at the edges of `function` would hide the call
        return replace(message, content=cut_up(message.content), extra=_mapped(dict(message.extra), cut_up, cut_inside))


def _cut_first(control: str, cut: str) -> str:
    if len(control) < 2:
        raise DataError(
            f"a text holds {control!r}, a control token of one character, which cannot be written as text. Take it out."
        )
    return control[0] + cut + control[1:]


def _cut_edges(text: str, cut: str) -> str:
    core = text.strip()
    if len(core) < 2:
        return text
    begin = text.index(core)
    end = begin + len(core)
    middle = f"{core[0]}{cut}{core[1:-1]}{cut}{core[-1]}" if len(core) > 2 else f"{core[0]}{cut}{core[1]}"
    return text[:begin] + middle + text[end:]


def _any_of(strings: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted((s for s in strings if s), key=lambda s: (-len(s), s))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Any, change_key: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change_key, change_key): _mapped(item, change, change_key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change, change_key) for item in value]
    return value
