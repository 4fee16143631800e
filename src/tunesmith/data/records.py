"""Records in a file: the tokens and weights of all training examples, read as an update needs them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from tunesmith.data.pack import path_tokens
from tunesmith.data.stored import Chosen, Joined, Stored
from tunesmith.types import Record, Segment


class Sizes(NamedTuple):
    """Of each record, int32."""

    tokens: np.ndarray
    learned: np.ndarray
    path: np.ndarray  # tokens on the longest way from root to leaf
    reply: np.ndarray  # of its longest reply


class Records(Stored[Record]):
    """In memory stay the four sizes of each."""

    def __init__(self) -> None:
        super().__init__(to_bytes, of_bytes)
        self._sizes = tuple(array("i") for _ in range(4))

    def append(self, thing: Record) -> None:
        self.append_sized(to_bytes(thing), four_of(thing))

    def append_sized(self, row: bytes, four: tuple[int, int, int, int]) -> None:
        """As `to_bytes` and `four_of` give them."""
        self.append_row(row)
        for sizes, size in zip(self._sizes, four, strict=True):
            sizes.append(size)

    def save(self, path: Path) -> None:
        super().save(path)
        np.save(path.with_suffix(".sizes.npy"), np.array(self._sizes, np.int32))

    def opened(self, path: Path) -> Self:
        self._sizes = tuple(array("i", row.tobytes()) for row in np.load(path.with_suffix(".sizes.npy")))
        return super().opened(path)

    @property
    def sizes(self) -> Sizes:
        return Sizes(*(np.frombuffer(sizes, np.int32) for sizes in self._sizes))


def sizes_of(records: Sequence[Record]) -> Sizes:
    """None that stands in a file is read for that."""
    if isinstance(records, Records):
        return records.sizes
    if isinstance(records, Chosen):
        return Sizes(*(size[records.at] for size in sizes_of(records.whole)))
    if isinstance(records, Joined):
        return Sizes(*map(np.concatenate, zip(sizes_of(records.first), sizes_of(records.then))))
    found = np.array([four_of(r) for r in records], np.int32).reshape(-1, 4)
    return Sizes(*found.T)


def four_of(record: Record) -> tuple[int, int, int, int]:
    """As `Sizes` has them."""
    replies = replies_of(record)
    return record.num_tokens, sum(replies), path_tokens(record), max(replies, default=0)


def replies_of(record: Record) -> list[int]:
    """Tokens of each reply: learned ones that stand together. A dialogue has several."""
    found: list[int] = []
    for segment in record.segments:
        at = segment.weights.nonzero()[0]
        begins = (at[1:] - at[:-1] > 1).nonzero()[0] + 1
        found += [end - begin for begin, end in pairwise((0, *begins.tolist(), len(at))) if end]
    return found


def to_bytes(record: Record) -> bytes:
    """Numbers of segments and of the id's bytes; length and parent of each segment; weights, tokens, the id."""
    name = record.example_id.encode()
    head = [len(record.segments), len(name)]
    for segment in record.segments:
        head += [len(segment.tokens), segment.parent]
    parts = [np.array(head, np.int32).tobytes()]
    parts += [s.weights.astype(np.float32, copy=False).tobytes() for s in record.segments]
    parts += [s.tokens.astype(np.int32, copy=False).tobytes() for s in record.segments]
    return b"".join((*parts, name))


def of_bytes(_: int, row: bytes) -> Record:
    num, length = np.frombuffer(row, np.int32, 2).tolist()
    sizes = np.frombuffer(row, np.int32, 2 * num, 8).tolist()
    total = sum(sizes[::2])
    weights = np.frombuffer(row, np.float32, total, 8 + 8 * num)
    tokens = np.frombuffer(row, np.int32, total, 8 + 8 * num + 4 * total).astype(np.int64)
    segments, at = [], 0
    for size, parent in zip(sizes[::2], sizes[1::2]):
        segments.append(Segment(tokens[at : at + size], weights[at : at + size], parent))
        at += size
    return Record(row[len(row) - length :].decode(), tuple(segments))
