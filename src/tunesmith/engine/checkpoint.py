"""Checkpoints: all that a resume needs, whole or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tunesmith.engine.loop import State
from tunesmith.engine.session import Session
from tunesmith.errors import RunError
from tunesmith.files import broken_files, publish_folder
from tunesmith.roles import Feed


def checkpoint_name(update: int) -> str:
    return f"update_{update:07d}"


def save(folder: Path, session: Session, state: State, feed: Feed) -> Path:
    """Write `folder/update_…` and return it. Order comes from the update's number, never from a clock."""
    tensors, facts = session.save_state(state.tenant)

    def write(out: Path) -> None:
        save_file({n: t.contiguous() for n, t in tensors.items()}, out / "state.safetensors")
        everything = {"tenant": facts, "update": state.update, "feed": feed.state()}
        (out / "state.json").write_text(json.dumps(everything))

    return publish_folder(write, folder / checkpoint_name(state.update))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """(the newest whole checkpoint, what was skipped and why)."""
    skipped: list[str] = []
    for path in sorted(folder.glob("update_*"), reverse=True):
        broken = broken_files(path)
        if not broken:
            return path, skipped
        skipped.append(f"{path.name}: {', '.join(broken)} missing or damaged")
    return None, skipped


def load(path: Path, session: Session, state: State, feed: Feed) -> None:
    """Restore tenant, feed and update count from a whole checkpoint."""
    broken = broken_files(path)
    if broken:
        raise RunError(f"checkpoint {path} is damaged ({', '.join(broken)}); resume from another one")
    facts: dict[str, Any] = json.loads((path / "state.json").read_text())
    session.load_state(state.tenant, load_file(path / "state.safetensors"), facts["tenant"])
    feed.load(facts["feed"])
    state.update = facts["update"]


def keep(folder: Path, most: int) -> None:
    """Remove all but the newest whole ones; what is not whole is left for a person to look at."""
    whole = [path for path in sorted(folder.glob("update_*"), reverse=True) if not broken_files(path)]
    for path in whole[most:]:
        shutil.rmtree(path)
