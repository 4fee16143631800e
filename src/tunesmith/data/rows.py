"""Files to raw rows: (line, dict) or a rejected line with its reason. Memory does not grow with the file.

JSONL, JSON, CSV, TSV and Parquet, each also as `.gz`. A bad row never stops a file: it comes back as `Rejected`. What
makes a whole file unreadable (not there, a pipe, not Parquet, a compression bomb, changed while it was read) is a
DataError.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import stat
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.errors import DataError

MAX_ROW_BYTES = 16 * 2**20  # a longer line is rejected, and never held in memory as a whole
MAX_JSON_BYTES = 2 * 2**30  # a .json array is parsed as one piece
BOMB_RATIO, BOMB_BYTES = 500, 2**30  # unpacked to packed size, looked at once this much was unpacked
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
DELIMITERS = ",;\t|"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be used. `line` counts from 1; in Parquet and JSON arrays it is the row's number."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class _BadRow(ValueError):
    """Why one row cannot be parsed."""


def format_of(path: Path) -> str | None:
    """ "jsonl" | "json" | "csv" | "tsv" | "parquet", by the file's name, or None."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows(path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    """Each row of the file with its line number, or the reason why it was rejected. Blank lines are no rows."""
    before = _stat(path)
    kind = format_of(path)
    if kind is None:
        raise DataError(
            f"{path}: the kind of file is not known by its name '{path.name}'. Wanted: {', '.join(FORMATS)}, each "
            "also with .gz."
        )
    try:
        with path.open("rb") as raw:
            stream: Any = _Unpacked(raw, path) if path.suffix.lower() == ".gz" else raw
            reader = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv, "parquet": _parquet}[kind]
            yield from reader(stream, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is damaged or half-written ({error}). Copy it again.") from error
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror or error}).") from error
    after = _stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: the file changed while it was read. Start again when nothing writes to it.")


def _stat(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: there is no such file that can be read ({error.strerror}). Check the name."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is not a regular file (a folder, pipe or device). Name a data file.")
    return found


class _Unpacked(gzip.GzipFile):
    """A gzip stream that refuses compression bombs."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._path, self._packed, self._unpacked = path, path.stat().st_size, 0

    def _count(self, piece: bytes) -> bytes:
        self._unpacked += len(piece)
        if self._unpacked > BOMB_BYTES and self._unpacked > BOMB_RATIO * self._packed:
            raise DataError(
                f"{self._path}: unpacks to more than {BOMB_RATIO} times its size ({self._packed} bytes): a "
                "compression bomb? "
                "Unpack it yourself if it is what you want."
            )
        return piece

    def read(self, size: int | None = -1) -> bytes:
        return self._count(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._count(super().readline(size))


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, str] | Rejected]:
    """Decoded lines, with their ends. A byte-order mark decides between UTF-8 and UTF-16; without one it is UTF-8.

    Bytes that are not UTF-8 come as lone surrogates U+DC80..DCFF, for the caller to reject the row they stand in.
    """
    head = stream.readline(MAX_ROW_BYTES + 1)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = io.TextIOWrapper(
            io.BufferedReader(_Rejoined(head, stream)), encoding="utf-16", errors="replace", newline=""
        )
        for line, content in enumerate(iter(lambda: text.readline(MAX_ROW_BYTES), ""), 1):
            yield (
                (line, content)
                if "\ufffd" not in content
                else Rejected(str(path), line, "holds bytes that are not UTF-16")
            )
        return
    line, piece = 1, head.removeprefix(codecs.BOM_UTF8)
    while piece:
        if len(piece) > MAX_ROW_BYTES:
            while piece and not piece.endswith(b"\n"):
                piece = stream.readline(MAX_ROW_BYTES)
            yield Rejected(str(path), line, f"the line is longer than {MAX_ROW_BYTES // 2**20} MiB")
        else:
            yield line, piece.decode("utf-8", errors="surrogateescape")
        line, piece = line + 1, stream.readline(MAX_ROW_BYTES + 1)


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were already read."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _no_constant(name: str) -> None:
    raise _BadRow(f"holds {name}, which is not JSON: write null, or leave the field out")


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _BadRow(f"holds the key '{next(n for n in names if names.count(n) > 1)}' twice")
    return found


def parse_json(text: str) -> Any:
    """Strict JSON: no NaN, no duplicate keys. ValueError with the reason, in words for a user."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise _BadRow("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _BadRow(f"is not JSON: {error.msg} at column {error.colno}") from None


def check_text(text: str) -> None:
    """ValueError where the text could not be written as UTF-8 (lone surrogates, bytes in another encoding)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            raise _BadRow(
                f"holds the byte 0x{code - 0xDC00:02x}, which is not UTF-8 (save the file as UTF-8)"
            ) from None
        raise _BadRow(f"holds a lone surrogate U+{code:04X}, which is no character") from None


def _jsonl(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    for item in _lines(stream, path):
        if isinstance(item, Rejected):
            yield item
            continue
        line, text = item
        if not text.strip():
            continue
        try:
            if not text.isascii():
                check_text(text)
            yield line, _object(parse_json(text))
        except ValueError as error:
            yield Rejected(str(path), line, str(error))


def _object(value: Any) -> Row:
    if not isinstance(value, dict):
        raise _BadRow(f"is a JSON {type(value).__name__}, wanted an object with columns")
    return value


def _json(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    """One array of objects, or an object that holds one. Lines of objects under this name are read as JSONL."""
    raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DataError(
            f"{path}: a .json file is read as one piece, and this one is too large. Make it JSONL: one object per line."
        )
    text = raw.decode(
        "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig", "surrogateescape"
    )
    try:
        value = parse_json(text)
    except ValueError as error:
        if text.lstrip().startswith("{"):
            yield from _jsonl(io.BytesIO(raw), path)
            return
        raise DataError(
            f"{path}: {error}. Wanted: an array of objects, or one object per line in a .jsonl file."
        ) from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 and "messages" not in value else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: holds a JSON {type(value).__name__}. Wanted: an array of objects.")
    for number, item in enumerate(value, 1):
        try:
            yield number, _object(item)
        except ValueError as error:
            yield Rejected(str(path), number, str(error))


def sniff_delimiter(head: str) -> str:
    """The one of , ; tab | that cuts the rows into the most fields that most rows have; else a comma."""

    def fields(delimiter: str) -> int:
        found = [len(row) for row in csv.reader(io.StringIO(head), delimiter=delimiter) if row]
        agreeing = sum(n == found[0] for n in found) if found else 0
        return found[0] if found and agreeing * 2 > len(found) else 0

    return max(DELIMITERS, key=fields)


def _csv(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    csv.field_size_limit(MAX_ROW_BYTES)  # the library's own limit of 128 KiB is a document's length
    pending: list[Rejected] = []

    def decoded() -> Iterator[str]:
        for item in _lines(stream, path):
            if isinstance(item, Rejected):
                pending.append(item)
                yield "\n"  # keeps the line count
            else:
                yield item[1]

    lines = decoded()
    head = [line for line, _ in zip(lines, range(20))]
    delimiter = "\t" if format_of(path) == "tsv" else sniff_delimiter("".join(head[:19]))
    reader = csv.reader(_chain(head, lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        found: tuple[int, Row] | Rejected | None = None
        try:
            cells = next(reader)
            if header is None:
                header = _header(cells, path) if any(cells) else None
            elif any(cells):
                found = _csv_row(header, cells, path, line)
        except StopIteration:
            return
        except csv.Error as error:
            found = Rejected(str(path), line, f"is not CSV: {error} (is a quote left open?)")
        yield from pending
        pending.clear()
        if found is not None:
            yield found


def _chain(head: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from head
    yield from rest


def _header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(
            f"{path}: the header names {', '.join(map(repr, sorted(twice)))} more than once. Give each column its own "
            "name."
        )
    return names


def _csv_row(header: list[str], cells: list[str], path: Path, line: int) -> tuple[int, Row] | Rejected:
    if len(cells) != len(header):
        return Rejected(str(path), line, f"has {len(cells)} fields, the header has {len(header)}")
    try:
        for cell in cells:
            check_text(cell)
    except ValueError as error:
        return Rejected(str(path), line, str(error))
    return line, {name: cell for name, cell in zip(header, cells) if name}


def _parquet(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Row] | Rejected]:
    with tempfile.TemporaryFile() as unpacked:
        source: Any = path
        if path.suffix.lower() == ".gz":  # Parquet is read from its end
            while piece := stream.read(2**20):
                unpacked.write(piece)
            unpacked.seek(0)
            source = unpacked
        number = 0
        try:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: is not a Parquet file that can be read ({str(error).splitlines()[0]})."
            ) from error
