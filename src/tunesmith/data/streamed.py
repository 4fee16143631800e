"""The first rows of files elsewhere, read piece by piece: the rest of them is not fetched, and no more than a piece is
in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from itertools import islice
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.errors import DataError

Open = Callable[[str], AbstractContextManager[IO[bytes]]]  # a file's name to its bytes, which can be sought in
BATCH_ROWS = 1024
BUFFER_BYTES = 2**20  # of a column, that are asked for at a time


def first_rows(files: Mapping[str, Sequence[str]], num: int, folder: Path, opened: Open) -> dict[str, list[Path]]:
    """Split -> a file in `folder` with the first `num` rows of its files, which are Parquet or JSON lines. The folder
    is whole or absent; one that is there is taken as it is."""
    kinds = {split: _kind(names) for split, names in files.items()}
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial_", dir=folder.parent, ignore_cleanup_errors=True) as partial:
            for split, names in files.items():
                write = _parquet if kinds[split] == ".parquet" else _lines
                write(names, num, Path(partial) / name_of(split, num, kinds[split]), opened)
            os.replace(partial, folder)
    return {split: [folder / name_of(split, num, kind)] for split, kind in kinds.items()}


def name_of(split: str, num: int, kind: str) -> str:
    return f"{split}.first_{num}_rows{kind}"


def _kind(names: Sequence[str]) -> str:
    kinds = {Path(name).suffix for name in names}
    if len(kinds) > 1 or not kinds <= {".parquet", ".jsonl", ".ndjson"}:
        raise DataError(
            f"{names[0]}: only Parquet and JSON lines are read as a stream. Leave ?rows= out: then all of it is fetched"
        )
    return kinds.pop()


def _lines(names: Sequence[str], num: int, target: Path, opened: Open) -> None:
    def lines() -> Generator[bytes, None, None]:
        for name in names:
            with opened(name) as source:
                yield from (line.rstrip(b"\r\n") + b"\n" for line in source if line.strip())

    with target.open("wb") as out, closing(lines()) as some:
        out.writelines(islice(some, num))


def _batches(names: Sequence[str], opened: Open) -> Generator[pa.RecordBatch, None, None]:
    for name in names:
        with opened(name) as source:
            try:
                # with pre_buffer all row groups would be asked for at once
                yield from pq.ParquetFile(source, buffer_size=BUFFER_BYTES, pre_buffer=False).iter_batches(BATCH_ROWS)
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise DataError(f"{name}: is not Parquet that can be read as a stream ({reason})") from error


def _parquet(names: Sequence[str], num: int, target: Path, opened: Open) -> None:
    written, writer = 0, None
    try:
        with closing(_batches(names, opened)) as batches:
            for batch in batches:
                writer = writer or pq.ParquetWriter(target, batch.schema)
                some = pa.Table.from_batches([batch.slice(0, num - written)])
                writer.write_table(some.cast(writer.schema))
                written += some.num_rows
                if written == num:
                    break
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise DataError(f"{names[0]}: there are no rows")
