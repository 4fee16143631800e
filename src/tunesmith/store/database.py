"""The file of the store: made whole or not at all, opened as if a stranger had left it, written in transactions.

SQLite in WAL mode with synchronous=FULL: a transaction that was committed survives the loss of power, and processes
side by side read and write (https://sqlite.org/wal.html). Connections last for one piece of work.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock

from tunesmith.errors import BrokenStore, StoreError
from tunesmith.files import PARTIAL, sync
from tunesmith.store.rows import STEPS

NAME = "tunesmith.db"
LOCK = f".{NAME}.lock"  # held while a database is made
BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps at its side
BUSY_S = 30.0  # to wait for other processes; SQLite asks again ten times a second, and is not fair
MAX_BYTES = 2**24  # of one value
SETTINGS = (
    "PRAGMA trusted_schema = OFF",  # first: what a schema calls is not run because it is there
    "PRAGMA cell_size_check = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
)
Steps = Sequence[Sequence[str]]


@contextmanager
def opened(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to a database that is whole and of this version. Raises StoreError, which names the way out."""
    try:
        if create and not os.path.lexists(path):
            make(path)
        with closing(connected(path)) as store:
            yield store
    except sqlite3.Error as error:
        kind = BrokenStore if type(error) is sqlite3.DatabaseError else StoreError  # its kinds: busy, full, read-only …
        raise unusable(kind, path, str(error)) from error
    except OSError as error:
        raise unusable(StoreError, path, error.strerror or str(error)) from error
    except NotImplementedError as error:
        raise unusable(StoreError, path, "it is on a file system without locks") from error


def anew(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """All rows made again, in one transaction. A database that is broken is replaced before; one that is not stays the
    same file, since others may have it open (https://sqlite.org/howtocorrupt.html, 1.3)."""
    for is_second in (False, True):
        try:
            with opened(path, create=True) as store:
                check(store, path)
                with transaction(store):
                    store.execute("DELETE FROM runs")
                    fill(store)
            return
        except BrokenStore:
            if is_second:
                raise
            replace(path)


def replace(path: Path) -> None:
    try:
        make(path, instead=True)
    except OSError as error:
        raise unusable(StoreError, path, error.strerror or str(error)) from error


def unusable(kind: type[StoreError], path: Path, why: str) -> StoreError:
    return kind(
        f"{path} cannot be used ({why}). The run folders are whole without it; `tunesmith runs rebuild {path.parent}` "
        "makes it anew"
    )


def connected(path: Path) -> sqlite3.Connection:
    """Checked before anything is read of it, and brought up to date."""
    beside = {mark: path.with_name(path.name + mark) for mark in BESIDE}
    if path.is_symlink() or any(side.is_symlink() for side in beside.values()):
        raise unusable(BrokenStore, path, "a link leads elsewhere")
    if not path.is_file():
        raise unusable(StoreError, path, "no such file" if not path.exists() else "it is no file")
    if beside["-journal"].exists():  # in WAL mode there is none; it could name files to write and to remove
        raise unusable(BrokenStore, path, "a rollback journal lies beside it, which is not from tunesmith")
    was_killed = beside["-wal"].exists()  # or is open elsewhere
    store = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", timeout=BUSY_S, isolation_level=None, uri=True)
    try:
        store.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        for setting in SETTINGS:
            store.execute(setting)
        if version(store) > len(STEPS):
            raise unusable(BrokenStore, path, f"version {version(store)}, of a newer tunesmith")
        if asked(store, "PRAGMA journal_mode") != "wal":
            raise unusable(BrokenStore, path, "it is not as tunesmith makes it")
        if was_killed:
            check(store, path, "quick_check")
        migrate(store)
        if schema(store) != schema_of(STEPS):
            raise unusable(BrokenStore, path, "its tables are not those of tunesmith")
    except BaseException:
        store.close()
        raise
    return store


def asked(store: sqlite3.Connection, question: str) -> object:
    return store.execute(question).fetchone()[0]


def version(store: sqlite3.Connection) -> int:
    return int(str(asked(store, "PRAGMA user_version")))


def check(store: sqlite3.Connection, path: Path, how: str = "integrity_check") -> None:
    """BrokenStore where pages, indexes or references are damaged."""
    found = store.execute(f"PRAGMA {how}(1)").fetchone()[0]
    if found != "ok" or store.execute("PRAGMA foreign_key_check").fetchone():
        raise unusable(BrokenStore, path, f"damaged: {found if found != 'ok' else 'scores without a run'}")


@contextmanager
def transaction(store: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing. It may write from its first statement on, so what it read is still true when it writes."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
        store.execute("COMMIT")
    except BaseException:
        if store.in_transaction:  # a full disk ends it by itself
            store.execute("ROLLBACK")
        raise


def migrate(store: sqlite3.Connection, steps: Steps = STEPS) -> None:
    """A transaction for each step that the database has not made."""
    for number in range(version(store), len(steps)):
        with transaction(store):
            if version(store) == number:  # no other process was first
                for statement in steps[number]:
                    store.execute(statement)
                store.execute(f"PRAGMA user_version = {number + 1}")


def schema(store: sqlite3.Connection) -> list[tuple[str, ...]]:
    return store.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def schema_of(steps: Steps) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as plain:
        migrate(plain, steps)
        return schema(plain)


def make(path: Path, *, instead: bool = False) -> None:
    """An empty database that appears whole, where there is none. `instead`: also in place of a broken one.

    A log that lies beside is of another database, and SQLite would play it into this one: it goes first.
    """
    with FileLock(path.with_name(LOCK), timeout=BUSY_S):
        if os.path.lexists(path) and not instead:
            return  # another process was first
        for left in path.parent.glob(f"{PARTIAL}store_*"):  # of one that was killed here
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}store_", dir=path.parent) as beside:
            there = Path(beside) / NAME
            with closing(sqlite3.connect(there, isolation_level=None)) as store:
                for line in (*SETTINGS, "PRAGMA journal_mode = WAL"):
                    store.execute(line)
                migrate(store)
            for mark in BESIDE:
                path.with_name(path.name + mark).unlink(missing_ok=True)
            os.replace(there, path)
        sync(path.parent)
