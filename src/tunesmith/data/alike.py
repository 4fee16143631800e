"""Which of many texts are the same, by digests of 10 bytes (two of a million that meet by chance: one in 10^12)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from tunesmith.data.stored import open_unnamed, put

BYTES = 10
DTYPE = np.dtype(f"S{BYTES}")
PARTS = 16  # sorted one after the other, so that sorting takes a sixteenth of the memory


KEPT = 2**16  # bytes that are written together


class Digests:
    """One behind the other in a file, until all are there."""

    def __init__(self) -> None:
        self._file, self._tail, self._num = open_unnamed(self), bytearray(), 0

    def append(self, digest: bytes) -> None:
        self._tail += digest
        self._num += 1
        if len(self._tail) >= KEPT:
            self._write()

    def _write(self) -> None:
        put(self._file, bytes(self._tail))
        self._tail.clear()

    def all(self) -> np.ndarray:
        """[n] as DTYPE."""
        self._write()
        return np.frombuffer(os.pread(self._file, self._num * BYTES, 0), DTYPE)


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=BYTES).digest()


def to_hex(some: np.ndarray) -> list[str]:
    whole = some.tobytes().hex()
    return [whole[at : at + 2 * BYTES] for at in range(0, len(whole), 2 * BYTES)]


def runs(some: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Part for part: indices with equal ones side by side, in their order, and where each run of these begins."""
    lead = np.frombuffer(some, np.uint8)[::BYTES] % PARTS
    for part in range(PARTS):
        index = np.flatnonzero(lead == part)
        if index.size:
            index = index[np.argsort(some[index], kind="stable")]
            there = some[index]
            yield index, np.flatnonzero(np.concatenate([[True], there[1:] != there[:-1]]))


def first_like(some: np.ndarray) -> np.ndarray:
    """The index of the first that is equal to each, itself where it is the first; uint32."""
    found = np.empty(len(some), np.uint32)
    for index, begins in runs(some):
        found[index] = np.repeat(index[begins], np.diff([*begins, len(index)]))
    return found


def again(some: np.ndarray) -> np.ndarray:
    """Numbers of those that an earlier one is equal to."""
    found: np.ndarray = np.flatnonzero(first_like(some) != np.arange(len(some), dtype=np.uint32))
    return found


def occurrence(some: np.ndarray) -> np.ndarray:
    """1 for the first of its kind, 2 for the next one that is equal to it …; as few bytes each as will do."""
    found = np.ones(len(some), np.uint8)
    for index, begins in runs(some):
        sizes = np.diff([*begins, len(index)])
        times = np.arange(len(index)) - np.repeat(begins, sizes) + 1
        found = found.astype(np.promote_types(found.dtype, np.min_scalar_type(times.max())), copy=False)
        found[index] = times
    return found


def places(among: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in the sorted `among`; -1 where it does not."""
    if not len(among):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    return np.where(among[at] == wanted, at, -1)
