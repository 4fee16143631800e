"""Files to raw rows: (line, dict) or a rejected line with its reason. Memory does not grow with the file.

JSONL, JSON, CSV, TSV, Parquet, Arrow, plain text, HTML and PDF, each also as `.gz` or `.zst`, and Excel workbooks. A
bad row never stops a file: it comes back as `Rejected`. What makes a whole file unreadable (not there, a pipe, not
Parquet, a compression bomb, changed while it was read) is a DataError.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.data.chatml import conversations, is_chatml
from tunesmith.data.delimited import csv_rows, said_delimiter
from tunesmith.data.documents import documents
from tunesmith.data.lines import (
    About,
    BadRow,
    Reading,
    Rejected,
    Row,
    check_encoding,
    check_text,
    encoding_of,
    lines,
    survey,
)
from tunesmith.data.packed import SUFFIXES, is_packed, opened, read_frac
from tunesmith.data.sheet import sheet_rows
from tunesmith.data.webpages import html_rows, pdf_rows
from tunesmith.errors import DataError, did_you_mean

__all__ = ["About", "Reading", "Rejected", "Row", "check_text", "format_of", "of_one_kind", "parse_json", "rows"]

MAX_JSON_BYTES = 2 * 2**30  # a .json array is parsed as one piece
BATCH_ROWS = 1024  # of a columnar file, that become Python objects at a time
NAMED = {"parquet": "a Parquet file", "arrow": "an Arrow or Feather file"}
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "xlsx",
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
}
DOCUMENTS = ("text", "html", "pdf")
ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog")  # texts about data, and none of it


def format_of(path: Path) -> str | None:
    """One of FORMATS, by the file's name, or None."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def of_one_kind(files: Sequence[Path]) -> list[Path]:
    """Those of a folder that hold data: rows, or where there are none, plain texts, but for a text about the data."""
    known = [f for f in files if format_of(f) is not None and not f.name.startswith(".")]
    of_rows = [f for f in known if format_of(f) not in DOCUMENTS]
    return of_rows or [f for f in known if re.split(r"[\W_]", f.name.lower())[0] not in ABOUT]


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows(
    path: Path, reading: Reading | None = None, about: About | None = None
) -> Iterator[tuple[int, Row] | Rejected]:
    """Each row of the file with its line number, or the reason why it was rejected. Blank lines are no rows.

    `about` is filled with what was noticed: the encoding and the delimiter, and what a person must know.
    """
    reading, about = reading or Reading(), about or About()
    before = _stat(path)
    kind = format_of(path)
    if kind is None:
        hint = " Save it as .xlsx or CSV." if path.suffix.lower() in (".xls", ".ods", ".numbers") else ""
        raise DataError(
            f"{path}: the kind of file is not known by its name '{path.name}'. Wanted: {', '.join(FORMATS)}, each "
            f"also with .gz or .zst.{hint}"
        )
    about.found["format"] = kind
    try:
        yield from _read(path, kind, reading, about)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is damaged or half-written ({error}). Copy it again.") from error
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror or error}).") from error
    after = _stat(path)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{path}: the file changed while it was read. Start again when nothing writes to it.")


def _read(path: Path, kind: str, reading: Reading, about: About) -> Iterator[tuple[int, Row] | Rejected]:
    if kind == "xlsx" and is_packed(path):
        raise DataError(f"{path}: a workbook is compressed in itself. Unpack the {path.suffix} first.")
    if kind == "xlsx":
        yield from sheet_rows(path, reading.sheet, about)
        return
    with opened(path) as source:
        stream: Any = source
        if kind != "json":  # which is read as one piece
            about.read_frac = lambda: read_frac(source, path)
        if kind in COLUMNAR:
            yield from _of_columns(kind, stream, path, about)
            return
        if kind in ("html", "pdf"):
            yield from pdf_rows(stream, path) if kind == "pdf" else html_rows(stream, path, reading.encoding)
            return
        if reading.encoding is not None:
            encoding = check_encoding(reading.encoding)
        elif kind in ("csv", "tsv", "text"):
            encoding = survey(stream, path, about)
            stream.seek(0)
        else:
            encoding = encoding_of(stream.peek(4)[:4])
        about.found["encoding"] = encoding
        if kind in ("csv", "tsv"):
            usual = "\t" if kind == "tsv" else None
            delimiter = usual if reading.delimiter is None else said_delimiter(reading.delimiter)
            yield from csv_rows(stream, path, encoding, delimiter, about)
        elif kind == "text" and reading.separator is None and is_chatml(stream.peek(64)[:64]):
            about.found["format"] = "ChatML"
            yield from conversations(stream, path, encoding)
        elif kind == "text":
            yield from documents(stream, path, encoding, reading.separator)
        else:
            yield from (_jsonl if kind == "jsonl" else _json)(stream, path, encoding)


def _stat(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError as error:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{path}: there is no such file that can be read ({error.strerror}). Check the name."
            f"{did_you_mean(path.name, beside)}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is not a regular file (a folder, pipe or device). Name a data file.")
    return found


def _no_constant(name: str) -> None:
    raise BadRow(f"holds {name}, which is not JSON: write null, or leave the field out")


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise BadRow(f"holds the key '{next(n for n in names if names.count(n) > 1)}' twice")
    return found


def parse_json(text: str) -> Any:
    """Strict JSON: no NaN, no duplicate keys. ValueError with the reason, in words for a user."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise BadRow("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadRow(f"is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from None


def _jsonl(stream: IO[bytes], path: Path, encoding: str) -> Iterator[tuple[int, Row] | Rejected]:
    for item in lines(stream, path, encoding):
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
        raise BadRow(f"is a JSON {type(value).__name__}, wanted an object with columns")
    return value


def _json(stream: IO[bytes], path: Path, encoding: str) -> Iterator[tuple[int, Row] | Rejected]:
    """One array of objects, or an object that holds one. Lines of objects under this name are read as JSONL."""
    raw = stream.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DataError(
            f"{path}: a .json file is read as one piece, and this one is too large. Make it JSONL: one object per line."
        )
    try:
        text = raw.decode("utf-8-sig", "surrogateescape") if encoding.startswith("utf-8") else raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: holds bytes that are not {encoding} ({error.reason}).") from error
    try:
        value = parse_json(text)
    except ValueError as error:
        if text.lstrip().startswith("{"):
            yield from _jsonl(io.BytesIO(raw), path, encoding)
            return
        raise DataError(
            f"{path}: {error}. Wanted: an array of objects, or one object per line in a .jsonl file."
        ) from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        is_row = "messages" in value or "conversations" in value
        value = lists[0] if len(lists) == 1 and not is_row else [value]
    if not isinstance(value, list):
        raise DataError(f"{path}: holds a JSON {type(value).__name__}. Wanted: an array of objects.")
    for number, item in enumerate(value, 1):
        try:
            yield number, _object(item)
        except ValueError as error:
            yield Rejected(str(path), number, str(error))


Batches = Iterator[tuple[pa.RecordBatch, float]]  # with how much of the file stands before each


def _parquet(source: Any) -> Batches:
    # without a buffer size, whole columns of a row group, and with pre_buffer all row groups: that may be the file
    whole, done = pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False), 0
    for batch in whole.iter_batches(batch_size=BATCH_ROWS):
        yield batch, done / whole.metadata.num_rows
        done += batch.num_rows


def _arrow(source: Any) -> Batches:
    """Feather files and those that `datasets` keeps: with an index at their end, or as a stream."""
    mapped = pa.memory_map(str(source)) if isinstance(source, Path) else pa.PythonFile(source)
    try:
        reader = pa.ipc.open_file(mapped)
        num = reader.num_record_batches
        batches = ((reader.get_batch(k), k / num) for k in range(num))
    except pa.ArrowInvalid:
        mapped.seek(0)
        batches = ((batch, mapped.tell() / mapped.size()) for batch in pa.ipc.open_stream(mapped))
    for batch, done in batches:
        yield from ((batch.slice(begin, BATCH_ROWS), done) for begin in range(0, batch.num_rows, BATCH_ROWS))


COLUMNAR: dict[str, Callable[[Any], Batches]] = {"parquet": _parquet, "arrow": _arrow}


def _of_columns(kind: str, stream: IO[bytes], path: Path, about: About) -> Iterator[tuple[int, Row] | Rejected]:
    with tempfile.TemporaryFile() as whole:
        source: Any = path
        if is_packed(path):  # it is read from its end
            while piece := stream.read(2**20):
                whole.write(piece)
            whole.seek(0)
            source = whole
        number = 0
        try:
            for batch, done in COLUMNAR[kind](source):
                about.read_frac = partial(float, done)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except pa.ArrowException as error:
            raise DataError(f"{path}: is not {NAMED[kind]} that can be read ({str(error).splitlines()[0]}).") from error
