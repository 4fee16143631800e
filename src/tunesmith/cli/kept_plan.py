"""Plans of the last day, shown again where nothing that they depend on has changed: without torch, in half a second.

A plan depends on what was typed, on every file that was read for it, on the program and its packages, and on the memory
that is free. Only plans for a processor, of files that lie here, are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith.places import cache_dir, free_memory_gib

MOST_AGE_S = 24 * 3600.0  # tomorrow the machine may be as slow as it likes
FREE_FRAC = 0.1  # of the memory that was free then: by more, another micro-batch may be picked
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "psutil")
SAID = ("TUNESMITH_", "HF_", "XDG_", "CUDA", "OMP_", "MKL_", "TMPDIR")  # of the environment


def find(words: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `keep` was given, and when. `words`: what was typed."""
    path = place(words)
    if not path.is_file() or not 0 <= time.time() - path.stat().st_mtime < MOST_AGE_S:
        return None
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    is_free = abs(free_memory_gib()[0] - kept["free_gib"]) <= FREE_FRAC * kept["free_gib"]
    return kept if is_free and stamps(kept["stamps"]) == kept["stamps"] else None


def keep(words: Mapping[str, Any], shown: Mapping[str, Any], read: Iterable[Path]) -> None:
    """`read`: files and folders that the plan was made from, beside the recipe's file."""
    there = {str(Path(path).resolve()) for path in (words["file"], *read, cache_dir() / "guards") if path is not None}
    path = place(words)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.iterdir():
        with suppress(FileNotFoundError):  # another plan forgets as well
            if time.time() - old.stat().st_mtime > MOST_AGE_S:
                old.unlink()
    facts = {**shown, "at": time.strftime("%Y-%m-%d %H:%M"), "free_gib": free_memory_gib()[0], "stamps": stamps(there)}
    partial = path.with_name(f".partial_{path.name}_{os.getpid()}")
    partial.touch(mode=0o600)  # it shows a row of the data
    partial.write_text(json.dumps(facts), encoding="utf-8")
    os.replace(partial, path)


def place(words: Mapping[str, Any]) -> Path:
    """The file of a plan, named after all that can be known before anything is read."""
    said = {name: value for name, value in os.environ.items() if name.startswith(SAID)}
    here = [
        os.getcwd(),
        platform.node(),
        os.cpu_count(),
        platform.python_version(),
        stamps([Path(__file__).parents[1]]),
    ]
    parts = [{**words}, sorted(said.items()), here, [metadata.version(name) for name in PACKAGES]]
    name = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return cache_dir() / "plans" / f"{name}.json"


def paths_in(said: Any) -> Iterator[Path]:
    """Files and folders that a recipe names, wherever it does: data, a teacher, a schema, a metric ("own.py:score")."""
    if isinstance(said, str):
        yield from map(Path, filter(os.path.exists, map(os.path.expanduser, (said, said.rpartition(":")[0]))))
    elif isinstance(said, (Mapping, list, tuple)):
        for part in said.values() if isinstance(said, Mapping) else said:
            yield from paths_in(part)


def stamps(paths: Iterable[str | Path]) -> dict[str, list[list[Any]]]:
    """Of each path, name, size and time of change of itself or of all files in it."""
    return {str(path): stamp(Path(path)) for path in paths}


def stamp(path: Path) -> list[list[Any]]:
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [p for p in inside if p.is_file() and p.suffix != ".pyc"]
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
