"""How a process ended that could not say so: what the system counts of the kills for memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORKING = "working.json"  # in a run folder, as long as a process fills it; there at a start: the last one was killed


def killed_for_memory(died: dict[str, Any]) -> bool:
    """Whether the system has killed a process for its memory since that one began, as far as it tells."""
    now = memory_kills()
    return bool(died.get("boot") == now["boot"] and (now["kills"] or 0) > (died.get("kills") or 0))


def memory_kills(root: Path = Path("/")) -> dict[str, Any]:
    """The kernel's counter, of this group of processes where it keeps one, and since which start of the machine."""
    found: dict[str, Any] = {"boot": "", "kills": None}
    for name in ("sys/fs/cgroup/memory.events", "proc/vmstat"):
        path = root / name
        rows = dict(line.split() for line in path.read_text().splitlines()) if path.is_file() else {}
        if "oom_kill" in rows:
            found["kills"] = int(rows["oom_kill"])
            break
    boot = root / "proc/sys/kernel/random/boot_id"
    return found | ({"boot": boot.read_text().strip()} if boot.is_file() else {})


def working(stage: str) -> dict[str, Any]:
    return {"stage": stage, **memory_kills()}
