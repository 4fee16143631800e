"""The store beside the folders: a row is written when a run's files are, read where they have not changed since, and
made again from them. Where the two differ, what is on disk is true."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from tunesmith import lineage, runs
from tunesmith.errors import InputError, StoreError
from tunesmith.files import sha256_file, sha256_text
from tunesmith.folder import METRICS, PROCESS, Teller
from tunesmith.store import rows
from tunesmith.store.database import NAME, anew, check, opened, transaction
from tunesmith.store.rows import Run

HOME = "runs"  # a folder of this name gets a store by itself; elsewhere `tunesmith runs rebuild` makes one
READ = ("recipe.yaml", *runs.MARKS, METRICS, PROCESS, lineage.NAME)  # what a row is made of
SETTLED = (
    "finished",
    "trained",
    "interrupted",
    "failed",
)  # cannot change while the files do not; a running process can end


def home_of(out: Path) -> Path | None:
    """The folder whose store this run belongs to: the nearest above that has one, else the nearest called "runs"."""
    above = list(out.resolve().parents)[: runs.DEPTH]
    found = [p for p in above if (p / NAME).exists()] or [p for p in above if p.name == HOME]
    return found[0] if found else None


def record(out: Path, tell: Teller) -> None:
    """The row of a run whose files were just written, or taken away. What is wrong with the store is said, and stops
    nothing."""
    home = home_of(out)
    if home is None or not (runs.is_run(out) or (home / NAME).exists()):
        return
    told = Told.of(out.resolve())
    try:
        with opened(home / NAME, create=True) as store, transaction(store):
            told.note(store, home)
            forget(store, home, told.path(home))
    except StoreError as error:
        tell.say(f"this run is not in the store: {error}")


@dataclass(frozen=True, slots=True)
class Told:
    """What a folder said, and the stamp that its files had before they were read."""

    folder: Path
    stamp: str
    run: Run

    @classmethod
    def of(cls, folder: Path) -> Told:
        stamp = stamp_of(folder)
        return cls(folder, stamp, runs.read(folder))

    def path(self, home: Path) -> str:
        return self.folder.relative_to(home).as_posix()

    def note(self, store: Connection, home: Path) -> None:
        """In the caller's transaction. Where the files are others by now, whoever wrote them comes after this."""
        if stamp_of(self.folder) == self.stamp:
            rows.put(store, self.path(home), self.stamp, self.run)


def forget(store: Connection, home: Path, path: str) -> None:
    """The row of a folder that is gone. Looked at in the caller's transaction: a new run may have come by now."""
    if not runs.is_run(home / path):
        rows.drop(store, path)


@cache
def telling() -> str:
    """Rows that were told by another tunesmith are told again."""
    return sha256_file(Path(runs.__file__))


def stamp_of(folder: Path) -> str:
    """Of the files that a row is made of: another inode, size or time is another stamp. A copy has one of its own."""
    said = [telling()]
    for name in READ:
        with suppress(FileNotFoundError):
            s = os.stat(folder / name)
            said.append(f"{name} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}")
    return sha256_text("\n".join(said))


@dataclass(slots=True)
class Reader:
    """Of the runs below `home`: from the store what did not change, the rest from the folders."""

    home: Path
    store: Connection
    stale: list[Told]  # folders whose row is missing, or says something else

    def __call__(self, folder: Path) -> Run:
        kept = rows.get(self.store, folder.relative_to(self.home).as_posix(), str(folder))
        if kept is not None and kept[1].state in SETTLED and kept[0] == stamp_of(folder):
            return kept[1]
        told = Told.of(folder)
        if kept != (told.stamp, told.run):
            self.stale.append(told)
        return told.run

    def gone(self) -> list[str]:
        return [path for path in rows.paths(self.store) if not runs.is_run(self.home / path)]

    def catch_up(self) -> None:
        gone = self.gone()
        if self.stale or gone:
            with transaction(self.store):
                for told in self.stale:
                    told.note(self.store, self.home)
                for path in gone:
                    forget(self.store, self.home, path)


def find(folder: Path, order: str = "when") -> tuple[list[Run], str]:
    """(the runs below a folder, what is to be said of its store: "" where it has none, or a good one)."""
    if not (folder / NAME).exists():
        return runs.find(folder, order), ""
    try:
        with opened(folder / NAME) as store:
            reader = Reader(folder, store, [])
            found = runs.find(folder, order, reader)
            reader.catch_up()
            return found, ""
    except StoreError as error:
        return runs.find(folder, order), f"{error}; they were read instead"


def rebuild(folder: Path) -> dict[str, Any]:
    """A store from the folders alone. Facts as of `checked`."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that the runs are in")
    found = [Told.of(run) for run in sorted(runs.folders(folder))]

    def fill(store: Connection) -> None:
        for told in found:
            told.note(store, folder)

    anew(folder / NAME, fill)
    return checked(folder)


def checked(folder: Path) -> dict[str, Any]:
    """Is the file whole, and in step with the folders? Facts: its path, how many rows and runs, and folders that
    differ. Raises StoreError where it is broken."""
    path = folder / NAME
    if not path.exists():
        raise InputError(f"{folder} has no store ({NAME}): `tunesmith runs rebuild {folder}` makes one")
    with opened(path) as store:
        check(store, path)
        reader = Reader(folder, store, [])
        found = runs.find(folder, "name", reader)
        differ = [told.path(folder) for told in reader.stale] + reader.gone()
        num = sum(1 for _ in rows.paths(store))
    return {"path": str(path), "rows": num, "runs": len(found), "differ": differ}
