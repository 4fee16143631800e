"""Whether a GGUF file holds what its header says, before a reader believes it.

The reader of the `gguf` package takes the header at its word: an array of 2^60 numbers in a file of 100 bytes keeps it
busy, and growing, for ever. Here every count is held against the bytes that are there. Layout: GGUF version 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tunesmith.errors import ModelError

MAGIC = b"GGUF"
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> size
STRING, ARRAY = 8, 9
MAX_FIELDS, MAX_TENSORS, MAX_NAME_BYTES, MAX_DIMENSIONS = 2**16, 2**20, 2**16, 4
MAX_ITEMS = 2**24  # of one array: the largest vocabularies have a fiftieth of it
MAX_DEPTH = 4  # of arrays in arrays
ALIGNMENT = 32


class Wrong(ValueError):
    """What in the file cannot be."""


class Cursor:
    """A place in the file; it never moves behind its end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at, self.size = data, 0, len(data)

    def skip(self, num: int, what: str) -> None:
        if num > self.size - self.at:
            raise Wrong(f"{what} of {num} bytes, and the file has {self.size - self.at} more")
        self.at += num

    def number(self, form: str, what: str) -> int:
        begin = self.at
        self.skip(struct.calcsize(form), what)
        return int(struct.unpack_from("<" + form, self.data, begin)[0])

    def text(self, what: str, most: int) -> bytes:
        num = self.number("Q", what)
        if num > most:
            raise Wrong(f"{what} of {num} bytes, more than {most}")
        begin = self.at
        self.skip(num, what)
        return bytes(self.data[begin : self.at])


def check_bounds(path: Path) -> None:
    """Raises ModelError where the header says what the file cannot hold; nothing is allocated by its word."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise Wrong("it is shorter than a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                walk(Cursor(data))
    except Wrong as error:
        raise ModelError(
            f"model {path}: this is no whole GGUF file (it names {error}): copy it again from where it is from"
        ) from error


def walk(cursor: Cursor) -> None:
    if bytes(cursor.data[:4]) != MAGIC:
        raise Wrong("no magic number of GGUF at its head")
    cursor.at = 4
    version = cursor.number("I", "a version")
    if version not in (2, 3):
        raise Wrong(f"version {version}; wanted 2 or 3, with its numbers the small end first")
    num_tensors, num_fields = cursor.number("Q", "a count"), cursor.number("Q", "a count")
    if num_tensors > MAX_TENSORS or num_fields > MAX_FIELDS:
        raise Wrong(f"{num_tensors} tensors and {num_fields} fields")
    alignment = ALIGNMENT
    for _ in range(num_fields):
        name = cursor.text("a field's name", MAX_NAME_BYTES)
        kind, begin = cursor.number("I", "a field's type"), cursor.at
        skip_value(cursor, kind, 0)
        if name == b"general.alignment" and kind == 4:
            alignment = int(struct.unpack_from("<I", cursor.data, begin)[0])
    if alignment == 0 or alignment & (alignment - 1):
        raise Wrong(f"an alignment of {alignment}")
    ends = [tensor_end(cursor) for _ in range(num_tensors)]
    begin = -(-cursor.at // alignment) * alignment
    if ends and begin + max(ends) > cursor.size:
        raise Wrong(f"tensors up to byte {begin + max(ends)}, and the file has {cursor.size}")


def skip_value(cursor: Cursor, kind: int, depth: int) -> None:
    if kind in SCALAR_BYTES:
        cursor.skip(SCALAR_BYTES[kind], "a number")
    elif kind == STRING:
        cursor.skip(cursor.number("Q", "a text"), "a text")
    elif kind == ARRAY and depth < MAX_DEPTH:
        inner, num = cursor.number("I", "an array's type"), cursor.number("Q", "an array")
        if num > MAX_ITEMS:
            raise Wrong(f"an array of {num} values")
        if inner in SCALAR_BYTES:
            cursor.skip(num * SCALAR_BYTES[inner], "an array")
            return
        if 8 * num > cursor.size - cursor.at:  # a text or an array takes 8 bytes at least
            raise Wrong(f"an array of {num} texts, and the file has {cursor.size - cursor.at} bytes more")
        for _ in range(num):
            skip_value(cursor, inner, depth + 1)
    else:
        raise Wrong(f"a field of type {kind}" + (", in too many arrays" if kind == ARRAY else ""))


def tensor_end(cursor: Cursor) -> int:
    """Where one tensor ends, from the beginning of the data, in bytes."""
    name = cursor.text("a tensor's name", MAX_NAME_BYTES).decode("utf-8", "replace")
    num = cursor.number("I", "a number of dimensions")
    if num > MAX_DIMENSIONS:
        raise Wrong(f"{num} dimensions of tensor {name}")
    shape = [cursor.number("Q", "a dimension") for _ in range(num)]
    kind, offset = cursor.number("I", "a tensor's type"), cursor.number("Q", "an offset")
    try:
        per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except ValueError:
        raise Wrong(f"type {kind} of tensor {name}, which is not known") from None
    return offset + prod(shape) * block_bytes // per_block
