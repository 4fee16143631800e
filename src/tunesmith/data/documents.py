"""Files of plain text to documents: the whole file, or what stands between separators. Line ends become \\n."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tunesmith.data import lines as text
from tunesmith.data.lines import Rejected, Row, check_text
from tunesmith.errors import DataError

COLUMN = "text"  # of the one that such a file has


def documents(
    stream: IO[bytes], path: Path, encoding: str, separator: str | None
) -> Iterator[tuple[int, Row] | Rejected]:
    """Each document with the line it begins in, without the blank lines around it; blank ones are none. A document
    with a byte that is not of the encoding is rejected, and so is one that is longer than a row may be."""
    if separator == "":
        raise DataError("data.reading.separator is empty; wanted what stands between two documents, or null.")
    held, begun, line, reason = "", 1, 0, ""
    for item in text.lines(stream, path, encoding):
        if isinstance(item, Rejected):  # its end may be a part of what stands between
            line, content, reason = item.line, "\n", f"a line of it {item.reason}"
        else:
            line, content = item
        if line == 1:
            refuse_rows(content, path)
        before = len(held)
        held += content.replace("\r\n", "\n")
        if separator is not None and held.find(separator, max(0, before - len(separator) + 1)) >= 0:
            *whole, held = held.split(separator)
            for content in whole:
                yield from document(content, path, begun, reason)
                begun, reason = line + separator.endswith("\n"), ""
        if len(held) > text.MAX_ROW_BYTES:
            held = ""
            reason = reason or (
                f"the document is longer than {text.MAX_ROW_BYTES // 2**20} MiB: say what stands between two, as in "
                "--set 'data.reading.separator=\\n\\n'"
            )
    yield from document(held, path, begun, reason)


def document(content: str, path: Path, line: int, reason: str) -> Iterator[tuple[int, Row] | Rejected]:
    """`line`: that of its first character; blank ones at its head are passed by."""
    core = content.strip("\n")
    if reason:
        yield Rejected(str(path), line, reason)
    elif core.strip():
        begun = line + len(content) - len(content.lstrip("\n"))
        try:
            check_text(core)
        except ValueError as error:
            yield Rejected(str(path), begun, str(error))
        else:
            yield begun, {COLUMN: core}


def refuse_rows(first: str, path: Path) -> None:
    """A table of rows under the name of a text would be learned with its braces."""
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        raise DataError(f"{path}: its first line is a JSON object, so it holds rows, not text. Name it .jsonl.")
