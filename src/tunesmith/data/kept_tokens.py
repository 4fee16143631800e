"""Rendered training examples in the user's cache, under a hash of content, template and settings.

Only where there are many, which take long to render; few are rendered again and leave nothing behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np

from tunesmith.data.examples import Examples
from tunesmith.data.outcomes import Rendered
from tunesmith.data.records import Records
from tunesmith.data.render import Renderer
from tunesmith.data.stored import Chosen, Stored, listed
from tunesmith.files import PARTIAL, STALE, broken_files, cache_dir, code_digest, publish_folder
from tunesmith.types import Example

LEAST = 2048  # examples
MOST_BYTES = 2**32  # of all that is kept; the longest unused goes first
LEFT_S = 24 * 3600.0  # what is still being written is younger
PACKAGES = ("tokenizers", "transformers", "jinja2")
RECORDS, DROPPED, CUT, SHOWN = "records.bin", "dropped.bin", "cut.bin", "shown.json"


def rendered(
    renderer: Renderer, rows: Sequence[Example], made: Sequence[Example], said: str, progress: Callable[[int], None]
) -> Rendered:
    """The records of `made`, which stands for `rows` changed as `said` says; from the cache where they are kept."""
    can_keep = type(renderer) is Renderer and "strftime_now" not in renderer.template  # others draw, or know the date
    if len(rows) < LEAST or not can_keep:
        return renderer.records(made, progress)
    folder = place() / key_of(renderer, rows, said)
    with suppress(FileNotFoundError):  # another process forgets it now
        if not broken_files(folder):
            os.utime(folder)
            return opened(folder)
    found = renderer.records(made, progress)
    keep(found, folder)
    return found


def place() -> Path:
    return cache_dir() / "tokens"


def key_of(renderer: Renderer, rows: Sequence[Example], said: str) -> str:
    """Of all that decides the records: this program's code and what it renders with, too."""
    parts = [code_digest(), *map(metadata.version, PACKAGES), renderer.digest, str(renderer.is_apart), said]
    digest = hashlib.sha256("\0".join(parts).encode())
    for row in contents(rows):
        digest.update(len(row).to_bytes(8, "big") + row)
    return digest.hexdigest()


def contents(rows: Sequence[Example]) -> Iterator[bytes]:
    """Of each its bytes in the file, with its number among equal ones."""
    whole, at = (rows.whole, rows.at) if isinstance(rows, Chosen) else (rows, np.arange(len(rows)))
    assert isinstance(whole, Examples)
    for times, row in zip(whole.times[at].tolist(), whole.as_stored(at.tolist())):
        yield b"%d " % times + row


def opened(folder: Path) -> Rendered:
    dropped: Stored[tuple[str, str]] = listed(lambda name, reason: (name, reason))
    cut: Stored[str] = listed(str)
    shown = json.loads((folder / SHOWN).read_text(encoding="utf-8"))
    return Rendered(
        Records().opened(folder / RECORDS), dropped.opened(folder / DROPPED), cut.opened(folder / CUT),
        tuple((text, is_learned) for text, is_learned in shown),
    )  # fmt: skip


def keep(found: Rendered, folder: Path) -> None:
    """Where there is room for it, less than what is free by far."""
    parts = {RECORDS: found.records, DROPPED: found.dropped, CUT: found.cut}
    num_bytes = sum(part.num_bytes for part in parts.values() if isinstance(part, Stored))
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # the texts can be read from them
    if 2 * num_bytes > min(MOST_BYTES, shutil.disk_usage(folder.parent).free):
        return

    def write(out: Path) -> None:
        for name, part in parts.items():
            assert isinstance(part, Stored)
            part.save(out / name)
        (out / SHOWN).write_text(json.dumps(found.shown), encoding="utf-8")

    try:
        publish_folder(write, folder)
    except OSError:
        if not folder.is_dir():  # no other process put the same there a moment ago
            raise
    forget(folder.parent)


def forget(place: Path) -> None:
    """What a killed process left behind; and until the rest is small enough, what was not used for longest."""
    found = []
    for folder in place.iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):  # another process forgets as well; .DS_Store
            used = folder.stat().st_mtime
            if not folder.name.startswith((PARTIAL, STALE)):
                found.append((used, sum(file.stat().st_size for file in folder.iterdir()), folder))
            elif used < time.time() - LEFT_S:
                shutil.rmtree(folder, ignore_errors=True)
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= MOST_BYTES:
            return
        shutil.rmtree(folder, ignore_errors=True)
        total -= size
