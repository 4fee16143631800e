"""ChatML (<|im_start|>role … <|im_end|>), as text files and in columns, to conversations, so that no marker is learned
as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tunesmith.data import lines as text
from tunesmith.data.lines import Rejected, Row, check_text

BEGIN, END = "<|im_start|>", "<|im_end|>"
COLUMN = "messages"
TURN = re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
CALLED_UPON = re.compile(r"<\|im_start\|>[ \t]*assistant\s*\Z")


def is_chatml(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(BEGIN.encode())


def conversations(stream: IO[bytes], path: Path, encoding: str) -> Iterator[tuple[int, Row] | Rejected]:
    """Each conversation with the line it begins in. One ends with <|endoftext|>, a blank line behind a turn, or where
    the next system turn begins."""
    held, begun, reason = "", 1, ""
    for item in text.lines(stream, path, encoding):
        if isinstance(item, Rejected):
            line, content, reason = item.line, "\n", f"a line of it {item.reason}"
        else:
            line, content = item[0], item[1].replace("\r\n", "\n")
        is_open = held.count(BEGIN) > held.count(END)
        begins_anew = content.startswith(f"{BEGIN}system") or content.strip() in ("", "<|endoftext|>")
        if begins_anew and not is_open:
            yield from _row(held, path, begun, reason)
            held, begun, reason = "", line, ""
            content = "" if BEGIN not in content else content
            begun += not content
        held += content
        if len(held) > text.MAX_ROW_BYTES:
            held, reason = "", reason or f"the conversation is longer than {text.MAX_ROW_BYTES // 2**20} MiB"
    yield from _row(held, path, begun, reason)


def _row(held: str, path: Path, line: int, reason: str) -> Iterator[tuple[int, Row] | Rejected]:
    if not held.strip() and not reason:
        return
    try:
        turns = turns_of(held)
        check_text(held)
    except ValueError as error:
        turns, reason = [], reason or str(error)
    yield Rejected(str(path), line, reason) if reason else (line, {COLUMN: turns})


def turns_of(text: str) -> list[dict[str, str]]:
    """The turns of a text that is ChatML and nothing else; ValueError says what else it is."""
    turns = [{"role": role.lower(), "content": content.rstrip("\n")} for role, content in TURN.findall(text)]
    left = TURN.sub("", text).replace("<|endoftext|>", "").strip()
    if left or not turns or text.count(BEGIN) != text.count(END):
        said = f"is not ChatML: {left[:40]!r} stands outside of a turn" if left else "a turn of it is never closed"
        raise ValueError(said)
    return turns


def in_column(text: str) -> list[dict[str, str]]:
    """The same of one cell, which may end by calling upon the assistant; that turn is left out."""
    return turns_of(CALLED_UPON.sub("", text))


def is_whole(text: str) -> bool:
    try:
        return bool(in_column(text))
    except ValueError:
        return False
