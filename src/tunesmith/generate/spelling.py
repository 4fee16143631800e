"""What one token stands for, in bytes: a token may be half a character, which no text can show."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")


@cache
def byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The token's text in UTF-8, or its bytes where they are no whole character."""
    entry = str(tokenizer.convert_ids_to_tokens(token))
    one = ONE_BYTE.fullmatch(entry)
    if one:
        return bytes([int(one[1], 16)])
    if "▁" in entry:
        return entry.replace("▁", " ").encode()
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    letters = byte_of_letter()
    if "\ufffd" in text and all(letter in letters for letter in entry):
        return bytes(letters[letter] for letter in entry)
    return text.encode()
