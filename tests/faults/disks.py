"""A disk that fails when it is told to, and one that remembers what would be left after the power went."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("fsync", "replace", "mkdir", "rmdir", "unlink")  # and `open`, for writing


@dataclass
class Broken:
    """Calls of the system are counted; the one with number `at` fails. `dies`: nothing works any more from there on, as
    if the process had been killed."""

    at: int
    number: int  # errno
    dies: bool = False
    seen: list[str] = field(default_factory=list)

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if name == "open" and not writes(args, options):
                return call(*args, **options)
            self.seen.append(name)
            if len(self.seen) - 1 == self.at or (self.dies and len(self.seen) > self.at):
                raise OSError(self.number, os.strerror(self.number), str(args[0]))
            return call(*args, **options)

        return counted


def writes(args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    mode = args[1] if len(args) > 1 else options.get("mode", "r")
    return isinstance(mode, str) and any(letter in mode for letter in "wax")


@contextmanager
def breaking(disk: Broken) -> Iterator[Broken]:
    calls = {name: disk.wrap(name, getattr(os, name)) for name in CALLS}
    with mock.patch.multiple(os, **calls), mock.patch.object(io, "open", disk.wrap("open", io.open)):
        yield disk


@dataclass
class Durable:
    """What the disk holds for sure: the bytes of files as of their last fsync, the names in folders as of theirs.

    `images` are the states after each call in which a machine may wake up: with all names that were given by then
    (renames that reached the disk by themselves) or only with those of synced folders; never with bytes nobody synced.
    """

    root: Path
    contents: dict[int, bytes] = field(default_factory=dict)  # by inode
    names: dict[int, dict[str, int]] = field(default_factory=dict)  # of a folder, by its inode
    kept: dict[int, Path] = field(default_factory=dict)
    images: list[tuple[dict[str, bytes], dict[str, bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in [self.root, *self.root.rglob("*")]:
            self.sync(path)

    def sync(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self.names[inode] = {p.name: p.stat().st_ino for p in path.iterdir()}
        else:
            self.contents[inode] = path.read_bytes()

    def image(self) -> None:
        eager = {str(p.relative_to(self.root)): self.contents.get(p.stat().st_ino, b"")
                 for p in self.root.rglob("*") if p.is_file()}  # fmt: skip
        self.images.append((eager, dict(self.under(self.root.stat().st_ino, ""))))

    def under(self, folder: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, inode in self.names.get(folder, {}).items():
            if inode in self.names:
                yield from self.under(inode, f"{prefix}{name}/")
            elif inode in self.contents:
                yield prefix + name, self.contents[inode]

    @contextmanager
    def watching(self) -> Iterator[None]:
        fsync, replace, unlink = os.fsync, os.replace, os.unlink

        def synced(handle: int) -> None:
            fsync(handle)
            self.sync(Path(os.readlink(f"/proc/self/fd/{handle}")))
            self.image()

        def renamed(*args: Any, **options: Any) -> None:
            replace(*args, **options)
            self.image()

        def removed(*args: Any, **options: Any) -> None:
            unlink(*args, **options)
            self.image()

        with mock.patch.multiple(os, fsync=synced, replace=renamed, unlink=removed):
            yield


def laid_out(image: dict[str, bytes], folder: Path) -> Path:
    for name, content in image.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
