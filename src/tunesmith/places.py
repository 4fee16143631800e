"""Where things are kept on this machine, and its memory, for whoever must not import much to know it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def cache_dir() -> Path:
    """Where downloaded and converted models live: $TUNESMITH_CACHE, or tunesmith under the user's cache folder."""
    named = os.environ.get("TUNESMITH_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith"


def free_memory_gib(held: int = 0) -> tuple[float, float]:
    """(free, in all) of the machine, or of the container where that has less. `held`: bytes of files that are needed in
    memory; the machine, which could read them again, counts them as free."""
    system = psutil.virtual_memory()
    free, total = max(0, system.available - held), system.total
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
        free = min(free, total - int(used.read_text()))
    return free / 2**30, total / 2**30
