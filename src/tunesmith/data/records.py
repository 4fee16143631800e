"""Records in a file: the tokens and weights of all training examples, read as an update needs them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunesmith.data.pack import path_tokens
from tunesmith.data.stored import Chosen, Joined, Stored
from tunesmith.types import Record, Segment


class Sizes(NamedTuple):
    """Of each record, int32."""

    tokens: np.ndarray
    learned: np.ndarray
    path: np.ndarray  # tokens on the longest way from root to leaf


class Records(Stored[Record]):
    """In memory stay the three sizes of each."""

    def __init__(self) -> None:
        super().__init__(to_bytes, of_bytes)
        self._sizes = array("i"), array("i"), array("i")

    def append(self, thing: Record) -> None:
        super().append(thing)
        for sizes, size in zip(self._sizes, (thing.num_tokens, thing.num_learned, path_tokens(thing))):
            sizes.append(size)

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
    found = np.array([(r.num_tokens, r.num_learned, path_tokens(r)) for r in records], np.int32).reshape(-1, 3)
    return Sizes(found[:, 0], found[:, 1], found[:, 2])


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
