"""Bytes to lines of text: the encodings that files of people have. What cannot be read is rejected line by line; what
had to be guessed is told (`About.notices`), so that no text is garbled in silence.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import DataError

MAX_ROW_BYTES = 16 * 2**20  # a longer line is rejected, and never held in memory as a whole
WESTERN = "cp1252"  # what a Western spreadsheet program writes where it does not write UTF-8
BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NO_TEXT = {
    b"PK\x03\x04": "a zip archive, such as an Excel workbook (then name it .xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file (save it as .xlsx or CSV)",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file (then name it .parquet)",
    b"\x1f\x8b": "compressed (then name it .gz)",
}
ESCAPED = re.compile("[\udc80-\udcff]")
WORD = re.compile(r"(?:[^\W\d_]|[\udc80-\udcff]){3,}")
MAX_WORDS = 2000

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read, where it is not to be found out from them."""

    delimiter: str | None = None  # of CSV: one character, or "tab"
    encoding: str | None = None  # a name that Python knows, such as cp1252, utf-16, shift_jis
    sheet: str | None = None  # of a workbook; null: its first
    separator: str | None = None  # of plain text: what stands between two documents; null: a file is one document


@dataclass(slots=True)
class About:
    """What was noticed while a file was read."""

    notices: list[str] = field(default_factory=list)  # sentences for a person
    found: dict[str, str] = field(default_factory=dict)  # format, delimiter, encoding, sheet
    read_frac: Callable[[], float] = lambda: 0.0  # how much of it was read so far; 0 where that is not known


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be used. `line` counts from 1; in Parquet and JSON arrays it is the row's number."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class BadRow(ValueError):
    """Why one row cannot be parsed."""


def check_text(text: str) -> None:
    """ValueError where the text could not be written as UTF-8 (lone surrogates, bytes in another encoding)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            raise BadRow(f"holds the byte 0x{code - 0xDC00:02x}, which is not UTF-8 (save the file as UTF-8)") from None
        raise BadRow(f"holds a lone surrogate U+{code:04X}, which is no character") from None


def check_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise DataError(
            f"data.reading.encoding is {name!r}, which is no encoding. Usual ones: utf-8, utf-16, cp1252, latin-1."
        ) from None


def encoding_of(head: bytes) -> str:
    """What a byte-order mark says, else UTF-8."""
    return next((name for mark, name in BOMS.items() if head.startswith(mark)), "utf-8")


def survey(stream: IO[bytes], path: Path, about: About) -> str:
    """The encoding of a whole text file without a mark: UTF-8, or, where nothing in it is UTF-8, Windows-1252 with a
    notice. A file that is neither is refused; single bad bytes in UTF-8 are left to be rejected with their row.
    """
    head = stream.read(2**16)
    kind = next((what for mark, what in NO_TEXT.items() if head.startswith(mark)), None)
    if kind is not None:
        raise DataError(f"{path}: is {kind}, not text.")
    marked = encoding_of(head)
    if marked != "utf-8":
        return marked
    if b"\0" in head:
        return _without_mark(head, path, about)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    good, bad = 0, 0
    words: list[str] = []
    piece = head
    while piece:
        text = decoder.decode(piece)
        if not text.isascii():
            num_bad = len(ESCAPED.findall(text))
            bad, good = bad + num_bad, good + sum(c > "\x7f" for c in text) - num_bad
            if num_bad and len(words) < MAX_WORDS:
                words += [word for word in WORD.findall(text) if ESCAPED.search(word)]
        piece = stream.read(2**20)
    if bad == 0 or good * 20 > bad:
        return "utf-8"
    shown = [word.encode("utf-8", "surrogateescape").decode(WESTERN, "replace") for word in words[:MAX_WORDS]]
    foreign = sum(not any(c.isascii() for c in word) for word in shown)
    if foreign * 5 > len(shown):
        raise DataError(
            f"{path}: is not UTF-8, and not Western European either (as Windows-1252 a word would be {shown[0]!r}). "
            "Save it as UTF-8, or say its encoding: --set data.reading.encoding=cp1251, for one."
        )
    example = f", where one word reads {shown[0]!r}" if shown else ""
    about.notices.append(
        f"{path}: is not UTF-8; it was read as Windows-1252{example}. If that is wrong, save it as UTF-8 or say "
        "--set data.reading.encoding=NAME"
    )
    return WESTERN


def _without_mark(head: bytes, path: Path, about: About) -> str:
    """UTF-16 whose mark is missing: every second byte of Western text is 0."""
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head[first::2].count(0) * 2 > len(head) // 2 and head[1 - first :: 2].count(0) == 0:
            about.notices.append(f"{path}: has no byte-order mark; it was read as {name}")
            return name
    raise DataError(f"{path}: holds zero bytes, so it is no text. Export it as CSV or JSONL.")


def lines(stream: IO[bytes], path: Path, encoding: str) -> Iterator[tuple[int, str] | Rejected]:
    """Decoded lines, with their ends.

    In UTF-8, bytes that are none come as lone surrogates U+DC80..DCFF, for the caller to reject the row they stand in.
    """
    if encoding.replace("_", "-").startswith(("utf-16", "utf-32")):
        text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
        for line, content in enumerate(iter(lambda: text.readline(MAX_ROW_BYTES), ""), 1):
            yield (line, content) if "\ufffd" not in content else _undecoded(path, line, encoding)
        text.detach()
        return
    is_utf8 = encoding in ("utf-8", "utf-8-sig")
    line, piece = 1, stream.readline(MAX_ROW_BYTES + 1).removeprefix(codecs.BOM_UTF8 if is_utf8 else b"")
    while piece:
        if len(piece) > MAX_ROW_BYTES:
            while piece and not piece.endswith(b"\n"):
                piece = stream.readline(MAX_ROW_BYTES)
            yield Rejected(str(path), line, f"the line is longer than {MAX_ROW_BYTES // 2**20} MiB")
        elif is_utf8:
            yield line, piece.decode("utf-8", errors="surrogateescape")
        else:
            content = piece.decode(encoding, errors="replace")
            yield (line, content) if "\ufffd" not in content else _undecoded(path, line, encoding)
        line, piece = line + 1, stream.readline(MAX_ROW_BYTES + 1)


def _undecoded(path: Path, line: int, encoding: str) -> Rejected:
    name = "UTF-16" if encoding.startswith("utf-16") else encoding
    return Rejected(str(path), line, f"holds bytes that are not {name}")
