"""Rows in a file instead of in memory: what a million examples, records or refusals are held in.

The file has no name: the system removes it when the process ends, however it ends. Memory holds where each chunk begins
(16 bytes for CHUNK rows) and the newest chunks that were read, so that small data is read from memory.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np

from tunesmith.errors import RunError

T = TypeVar("T")
U = TypeVar("U")

CHUNK = 128  # rows that are written and read together
CHUNK_BYTES = 2**20  # or as many as have these
KEPT_BYTES = 2**22  # of chunks as they stand in the file; as objects they take some five times that
COPIED_BYTES = 2**22  # at a time
PIECE = 4096  # indices that become Python numbers at a time


def place() -> str:
    """The folder of the file: TMPDIR where it is set, usable or not, else /var/tmp, as /tmp may be memory."""
    said = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), None)
    return said or ("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())


def open_unnamed(owner: object) -> int:
    """A file that nobody else sees, until `owner` is gone."""
    try:
        handle, name = tempfile.mkstemp(prefix="tunesmith_", dir=place())
        os.unlink(name)
    except OSError as error:
        raise no_room(error) from error
    weakref.finalize(owner, os.close, handle)
    return handle


def put(handle: int, data: bytes) -> None:
    """At its end."""
    done = 0
    try:
        while done < len(data):
            done += os.write(handle, data[done:])
    except OSError as error:
        raise no_room(error) from error


def no_room(error: OSError) -> RunError:
    return RunError(
        f"{place()}: the rows that are held there while a command runs could not be written ({error.strerror}). Make "
        "room there, or name another folder in TMPDIR"
    )


class Rows(Sequence[T]):
    """Equal to any sequence of equal things."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        numbers = range(len(self))
        return Chosen(self, np.array(numbers[at], np.uint32)) if isinstance(at, slice) else self._one(numbers[at])

    def __iter__(self) -> Iterator[T]:
        return (self._one(at) for at in range(len(self)))

    @abstractmethod
    def _one(self, at: int) -> T: ...


class Stored(Rows[T]):
    """Grows by `append`. Each row is made anew from its bytes when it is asked for, and only the newest ones are kept.

    `of_bytes` is told the row's number beside its bytes.
    """

    def __init__(self, to_bytes: Callable[[T], bytes], of_bytes: Callable[[int, bytes], T]) -> None:
        self._to_bytes, self._of_bytes = to_bytes, of_bytes
        self._file: int | None = None
        self._begins, self._stops = array("q"), array("q")  # of each chunk: its place in the file, the row behind it
        self._end = 0
        self._tail: list[bytes] = []  # rows that are no chunk yet
        self._tail_bytes = 0
        self._kept: dict[int, list[Any]] = {}  # chunk -> rows, as bytes until they are asked for
        self._kept_bytes: dict[int, int] = {}

    def append(self, thing: T) -> None:
        self.append_row(self._to_bytes(thing))

    def append_row(self, row: bytes) -> None:
        """As `to_bytes` gives it."""
        self._tail.append(row)
        self._tail_bytes += len(row)
        if len(self._tail) == CHUNK or self._tail_bytes >= CHUNK_BYTES:
            self._write()

    def __len__(self) -> int:
        return self._written + len(self._tail)

    @property
    def num_bytes(self) -> int:
        """Of all rows."""
        return self._end + self._tail_bytes

    @property
    def _written(self) -> int:
        """Rows that stand in the file."""
        return self._stops[-1] if self._stops else 0

    def _one(self, at: int) -> T:
        if at >= self._written:
            return self._of_bytes(at, self._tail[at - self._written])
        chunk = bisect_right(self._stops, at)
        first = self._stops[chunk - 1] if chunk else 0
        rows = self._kept.get(chunk)
        if rows is None and self._end > KEPT_BYTES:  # too much to keep, and asked for in any order
            return self._of_bytes(at, self._alone(chunk, self._stops[chunk] - first, at - first))
        rows = rows or self._read(chunk, self._stops[chunk] - first)
        found = rows[at - first]
        if isinstance(found, bytes):
            found = rows[at - first] = self._of_bytes(at, found)
        return found

    def __iter__(self) -> Iterator[T]:
        if self._end <= KEPT_BYTES:
            yield from super().__iter__()
            return
        yield from map(self._of_bytes, range(len(self)), self.as_stored(range(len(self))))

    def as_stored(self, at: Iterable[int]) -> Iterator[bytes]:
        """The bytes of these rows; quick where they are asked for in their order."""
        begin, stop, rows = 0, 0, []
        for n in at:
            if not begin <= n < stop:
                if n >= self._written:
                    begin, stop, rows = self._written, len(self), self._tail
                else:
                    chunk = bisect_right(self._stops, n)
                    begin, stop = (self._stops[chunk - 1] if chunk else 0), self._stops[chunk]
                    rows = self._chunk(chunk, stop - begin)
            yield rows[n - begin]

    def save(self, path: Path) -> None:
        """A copy with a name, which `opened` reads. Its index stands beside it."""
        if self._tail:
            self._write()
        with path.open("wb") as out:
            for begin in range(0, self._end, COPIED_BYTES):
                assert self._file is not None
                out.write(os.pread(self._file, min(COPIED_BYTES, self._end - begin), begin))
        np.save(path.with_suffix(".npy"), np.array([self._begins, self._stops], np.int64))

    def opened(self, path: Path) -> Self:
        """This one, empty so far, as what was saved."""
        index = np.load(path.with_suffix(".npy"))
        self._begins, self._stops = (array("q", row.tobytes()) for row in index)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._end = path.stat().st_size
        return self

    def _write(self) -> None:
        lengths = np.array([len(row) for row in self._tail], dtype=np.uint32).tobytes()
        data = b"".join((lengths, *self._tail))
        self._file = open_unnamed(self) if self._file is None else self._file
        put(self._file, data)
        self._begins.append(self._end)
        self._stops.append(self._written + len(self._tail))
        self._end += len(data)
        self._tail, self._tail_bytes = [], 0

    def _chunk(self, chunk: int, num: int) -> list[bytes]:
        assert self._file is not None
        begin = self._begins[chunk]
        end = self._begins[chunk + 1] if chunk + 1 < len(self._begins) else self._end
        data = os.pread(self._file, end - begin, begin)
        stops = (4 * num + np.cumsum(np.frombuffer(data, np.uint32, num), dtype=np.int64)).tolist()
        return [data[a:b] for a, b in zip([4 * num, *stops], stops)]

    def _alone(self, chunk: int, num: int, row: int) -> bytes:
        """One row of a chunk of `num`."""
        assert self._file is not None
        begin = self._begins[chunk]
        lengths = np.frombuffer(os.pread(self._file, 4 * (row + 1), begin), np.uint32)
        return os.pread(self._file, int(lengths[row]), begin + 4 * num + int(lengths[:row].sum(dtype=np.int64)))

    def _read(self, chunk: int, num: int) -> list[Any]:
        rows: list[Any] = self._chunk(chunk, num)
        self._kept[chunk], self._kept_bytes[chunk] = rows, sum(map(len, rows))
        while sum(self._kept_bytes.values()) > KEPT_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            del self._kept[oldest], self._kept_bytes[oldest]
        return rows


class Chosen(Rows[T]):
    """Some of a sequence by index, in this order; 4 bytes each."""

    def __init__(self, whole: Sequence[T], at: np.ndarray) -> None:
        self.whole, self.at = whole, at.astype(np.uint32, copy=False)

    def __len__(self) -> int:
        return len(self.at)

    def _one(self, at: int) -> T:
        return self.whole[int(self.at[at])]

    def __iter__(self) -> Iterator[T]:
        for begin in range(0, len(self.at), PIECE):
            for at in self.at[begin : begin + PIECE].tolist():
                yield self.whole[at]


class Made(Rows[T]):
    """Each made of a row of another sequence when it is asked for."""

    def __init__(self, whole: Sequence[U], make: Callable[[U], T]) -> None:
        self.whole, self._make = whole, make

    def __len__(self) -> int:
        return len(self.whole)

    def _one(self, at: int) -> T:
        return self._make(self.whole[at])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self.whole)


class Joined(Rows[T]):
    """One sequence behind the other."""

    def __init__(self, first: Sequence[T], then: Sequence[T]) -> None:
        self.first, self.then = first, then

    def __len__(self) -> int:
        return len(self.first) + len(self.then)

    def _one(self, at: int) -> T:
        return self.first[at] if at < len(self.first) else self.then[at - len(self.first)]

    def __iter__(self) -> Iterator[T]:
        return chain(self.first, self.then)


def listed(make: Callable[..., T]) -> Stored[T]:
    """Of flat dataclasses, tuples or texts: `make` is called with the fields."""

    def to_bytes(thing: Any) -> bytes:
        fields = (thing,) if isinstance(thing, str) else thing if isinstance(thing, tuple) else astuple(thing)
        return json.dumps(fields).encode()

    return Stored(to_bytes, lambda _, row: make(*json.loads(row)))
