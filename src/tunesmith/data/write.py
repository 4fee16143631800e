"""Rows to a file: CSV, TSV, JSONL or Parquet, by its name. One row in memory at a time (Parquet: CHUNK of them)."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.data.rows import Row, format_of
from tunesmith.errors import InputError
from tunesmith.files import sync

KINDS = ("csv", "tsv", "jsonl", "parquet")
CHUNK = 1024
PARQUET_TYPES = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}


def check_name(path: Path) -> str:
    """The kind of file that the name asks for; InputError where it is none of KINDS."""
    kind = format_of(path)
    if kind not in KINDS or path.suffix.lower() == ".gz":
        raise InputError(f"{path}: its name must end in .csv, .tsv, .jsonl or .parquet, which says how it is written")
    return kind


def write_rows(path: Path, rows: Iterable[Row], types: Mapping[str, set[type]], delimiter: str = ",") -> None:
    """`types`: every column, in order, with the types of its values, None aside. The file is whole or absent.

    CSV and TSV hold every column in every row; a list or an object is JSON text there. JSONL keeps values as they are.
    Parquet has a number or truth type where a column holds nothing else, and text otherwise.
    """
    kind = check_name(path)
    partial = path.with_name(f".{path.name}.writing")
    try:
        if kind == "parquet":
            _parquet(partial, rows, types)
        elif kind == "jsonl":
            _jsonl(partial, rows)
        else:
            _csv(partial, rows, types, "\t" if kind == "tsv" else delimiter)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def as_cell(value: Any) -> str:
    """A value as text: numbers and dates as Python writes them, lists and objects as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return _writable(_json(value) if isinstance(value, (list, dict)) else str(value))


def _writable(text: str) -> str:
    """Lone surrogates, which JSON can spell and UTF-8 cannot, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """NaN and infinities, which are not JSON, are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _csv(path: Path, rows: Iterable[Row], names: Iterable[str], delimiter: str) -> None:
    columns = list(names)
    with path.open("w", encoding="utf-8-sig", newline="") as out:  # the mark tells Excel that it is UTF-8
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows([as_cell(row.get(name)) for name in columns] for row in rows)


def _jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(_writable(_json(row)) + "\n" for row in rows)


def _parquet(path: Path, rows: Iterable[Row], types: Mapping[str, set[type]]) -> None:
    schema = pa.schema([(name, PARQUET_TYPES.get(frozenset(found), pa.string())) for name, found in types.items()])
    with pq.ParquetWriter(path, schema) as out:
        for chunk in _chunks(iter(rows)):
            columns = [[_typed(row.get(f.name), f.type) for row in chunk] for f in schema]
            out.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema)], schema=schema))


def _typed(value: Any, kind: pa.DataType) -> Any:
    return value if value is None or kind != pa.string() else as_cell(value)


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk
