"""Compressed files (.gz, .zst) as streams of bytes, which refuse compression bombs."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tunesmith.errors import DataError

SUFFIXES = (".gz", ".zst")
BOMB_RATIO, BOMB_BYTES = 500, 2**30  # unpacked to packed size, looked at once this much was unpacked


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where it is packed."""
    return io.BufferedReader(_Unpacked(path)) if is_packed(path) else path.open("rb")


def read_frac(stream: Any, path: Path) -> float:
    """How much of the file `opened` has read."""
    raw = stream.raw
    return raw.read_frac if isinstance(raw, _Unpacked) else raw.tell() / max(1, path.stat().st_size)


class _Unpacked(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._path, self._packed = path, path.stat().st_size
        self._begin()

    def _begin(self) -> None:
        is_gzip = self._path.suffix.lower() == ".gz"
        self._file = self._path.open("rb")
        self._stream: Any = (
            gzip.GzipFile(fileobj=self._file) if is_gzip else pa.input_stream(self._file, compression="zstd")
        )
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self._unpacked += len(piece)
        if self._unpacked > BOMB_BYTES and self._unpacked > BOMB_RATIO * self._packed:
            raise DataError(
                f"{self._path}: unpacks to more than {BOMB_RATIO} times its size ({self._packed} bytes): a "
                "compression bomb? "
                "Unpack it yourself if it is what you want."
            )
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert (offset, whence) == (0, io.SEEK_SET), "only its beginning can be gone back to"
        self._stream.close()
        self._file.close()
        self._begin()
        return 0

    @property
    def read_frac(self) -> float:
        """Of the packed bytes."""
        return self._file.tell() / max(1, self._packed)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()
