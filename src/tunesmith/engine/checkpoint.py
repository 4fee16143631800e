"""Checkpoints: all that a resume needs, whole or absent. A file `pinned` in one keeps it for ever."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tunesmith.engine.loop import State
from tunesmith.engine.session import Session
from tunesmith.errors import RunError
from tunesmith.files import broken_files, publish_folder, read_manifest, save_tensors, sha256_text
from tunesmith.roles import Feed

TENSORS, FACTS = "state.safetensors", "state.json"
PINNED = "pinned"  # made by a person, with `touch`


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after an update."""

    update: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def checkpoint_name(update: int) -> str:
    return f"update_{update:07d}"


def updates_in(folder: Path) -> list[int]:
    """Of the checkpoints, the newest first. Order comes from the update's number, never from a clock."""
    found = (re.fullmatch(r"update_(\d+)", path.name) for path in folder.glob("update_*"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def taken(session: Session, state: State, feed: Feed, *, copies: bool = True) -> Checkpoint:
    """Which shares no memory with what goes on learning where it `copies`; else it is written before that does."""
    tensors, facts = session.save_state(state.tenant, copies=copies)
    everything = {
        "tenant": facts, "update": state.update, "skipped": sorted(state.skipped.items()), "feed": feed.state(),
        "settings": settings(session, state),
    }  # fmt: skip
    return Checkpoint(state.update, tensors, everything)


def settings(session: Session, state: State) -> str:
    """SHA-256 of what, beside base, tenant and feed, decides how the run goes on."""
    spec = session.tenants[state.tenant].spec
    said = (type(state.objective).__name__, state.schedule, state.lr, state.num_updates, spec.optim, spec.seed)
    return sha256_text(repr((*said, state.reference) if state.reference else said))


def write(folder: Path, made: Checkpoint) -> Path:
    """`folder/update_…`, whole or absent."""

    def fill(out: Path) -> dict[str, str]:
        (out / FACTS).write_text(json.dumps(made.facts, allow_nan=False), encoding="utf-8")
        return {TENSORS: save_tensors(made.tensors, out / TENSORS)}

    return publish_folder(fill, folder / checkpoint_name(made.update))


def save(folder: Path, session: Session, state: State, feed: Feed) -> Path:
    return write(folder, taken(session, state, feed, copies=False))


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, by file; "" where it is whole and what its name says."""
    try:
        listed = read_manifest(path)
        if listed is None or not {TENSORS, FACTS} <= set(listed):
            return "manifest.json missing or damaged"
        broken = broken_files(path)
        if broken:
            return f"{', '.join(broken)} missing or damaged"
        update = json.loads((path / FACTS).read_text(encoding="utf-8"))["update"]
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    return "" if path.name == checkpoint_name(update) else f"{FACTS} is of update {update}: the folder was renamed"


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """(the newest whole checkpoint, what was skipped and why)."""
    skipped: list[str] = []
    for update in updates_in(folder):
        path = folder / checkpoint_name(update)
        wrong = damage(path)
        if not wrong:
            return path, skipped
        skipped.append(f"{path.name}: {wrong}")
    return None, skipped


def load(path: Path, session: Session, state: State, feed: Feed) -> None:
    """Restore tenant, feed and update count from a whole checkpoint of the same run."""
    wrong = damage(path)
    if wrong:
        raise RunError(f"checkpoint {path} is damaged ({wrong}); resume from another one")
    facts: dict[str, Any] = json.loads((path / FACTS).read_text(encoding="utf-8"))
    if facts["settings"] != settings(session, state):
        raise RunError(
            f"checkpoint {path} is of a run with another learning rate, schedule, optimizer, seed, number of "
            "updates or reference: put the run's own checkpoints back, or start a new run with another --out"
        )
    session.load_state(state.tenant, load_file(path / TENSORS), facts["tenant"])
    feed.load(facts["feed"])
    state.update = facts["update"]
    state.skipped = {update: tuple(blamed) for update, blamed in facts["skipped"]}


def spent(whole: Sequence[int], most: int, best: int | None, pinned: Collection[int]) -> list[int]:
    """Which of the whole checkpoints may go: not the newest `most`, not the best, none that is pinned."""
    newest_first = sorted(whole, reverse=True)
    return [u for u in newest_first[max(1, most) :] if u != best and u not in pinned]


class Saver:
    """Writes checkpoints in a thread of its own, one at a time, from copies, so that learning goes on meanwhile; where
    memory is short there are no copies, and it waits.

    A failure of that thread is raised by the next `check`, `save` or `wait`.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.num_saved, self.waited_s = 0, 0.0  # seconds for which learning stood still
        self._known_whole: set[int] = set()  # hashed once, not at every rotation
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def save(self, session: Session, state: State, feed: Feed, best: int | None = None) -> None:
        """`best`: the update whose weights did best on dev so far, where that was measured."""
        began = time.monotonic()
        self.wait()
        waits = session.freed.is_short
        made = taken(session, state, feed, copies=not waits)
        # A daemon: a second Ctrl-C does not wait for the disk, and what was half written is swept by the next start.
        self._thread = threading.Thread(target=self._write, args=(made, best), name="checkpoint", daemon=True)
        self._thread.start()
        self.num_saved += 1
        if waits:
            del made
            self.wait()
        self.waited_s += time.monotonic() - began

    def check(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def wait(self) -> None:
        """Until the last checkpoint is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(self, made: Checkpoint, best: int | None) -> None:
        try:
            write(self.folder, made)
            self._known_whole.add(made.update)
            self._rotate(best)
        except BaseException as error:
            self._failed = error  # raised in the thread that learns

    def _rotate(self, best: int | None) -> None:
        """What is not whole is left for a person to look at."""
        there = updates_in(self.folder)
        self._known_whole &= set(there)
        for update in set(there) - self._known_whole:
            if not damage(self.folder / checkpoint_name(update)):
                self._known_whole.add(update)
        pinned = {u for u in there if (self.folder / checkpoint_name(u) / PINNED).exists()}
        for update in spent(sorted(self._known_whole), self.most, best, pinned):
            shutil.rmtree(self.folder / checkpoint_name(update))
