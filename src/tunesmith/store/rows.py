"""What the store holds of a run: one row, and one for each of its scores. Nothing of it stands only here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from functools import cache
from typing import Any

from tunesmith.files import sha256_text

# A step leads from one version to the next. What stands here is never changed: a further version is a further step.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            path TEXT NOT NULL PRIMARY KEY, stamp TEXT NOT NULL, digest TEXT NOT NULL, id TEXT NOT NULL,
            parent TEXT NOT NULL, parent_id TEXT NOT NULL,
            "when" TEXT NOT NULL, model TEXT NOT NULL, data TEXT NOT NULL, task TEXT NOT NULL,
            state TEXT NOT NULL, "where" TEXT NOT NULL, made INTEGER NOT NULL, planned INTEGER,
            decision TEXT, claim TEXT, metric TEXT, effect REAL, low REAL, high REAL, num_cases INTEGER,
            earlier_looks INTEGER, total_s REAL, peak_gib REAL,
            recipe_digest TEXT NOT NULL, data_digest TEXT NOT NULL, test_digest TEXT NOT NULL,
            base_digest TEXT NOT NULL, tuned_digest TEXT NOT NULL)""",
        """CREATE TABLE scores (
            path TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, number INTEGER NOT NULL, metric TEXT NOT NULL,
            base REAL, tuned REAL, effect REAL, low REAL, high REAL, decision TEXT,
            PRIMARY KEY (path, number))""",
    ),
)


@dataclass(frozen=True, slots=True)
class Score:
    """What a verdict says by one metric."""

    metric: str
    base: float | None
    tuned: float | None
    effect: float | None
    low: float | None
    high: float | None
    decision: str | None  # None: no claim, but a metric that stands beside them


@dataclass(frozen=True, slots=True)
class Run:
    """One line of `tunesmith runs`; None: not known, or not yet. Of digests and ids, which are texts, that is ""."""

    folder: str
    when: str  # its last file was written, local time
    model: str
    data: str
    task: str
    state: str  # "finished" | "running" | "trained" | "interrupted" | "failed" | "unreadable"
    where: str  # how far it came, where it is not finished
    decision: str | None = None
    metric: str | None = None
    effect: float | None = None  # in the metric's unit
    interval: tuple[float, float] | None = None
    num_cases: int | None = None
    total_s: float | None = None
    peak_gib: float | None = None
    updates: tuple[int, int | None] = (0, None)  # made, planned
    claim: str | None = None  # the verdict in a sentence
    scores: tuple[Score, ...] = ()  # claims first
    earlier_looks: int | None = None  # of other runs at some of these held-out cases, when this one looked
    id: str = ""  # goes with the folder wherever it is carried
    parent: str = ""  # the run whose model this one started from: the name that its folder had then
    parent_id: str = ""
    recipe_digest: str = ""
    data_digest: str = ""
    test_digest: str = ""  # of the set of held-out cases
    base_digest: str = ""
    tuned_digest: str = ""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@cache
def columns(table: str) -> dict[str, tuple[type, bool]]:
    """Name -> (type of a value in Python, whether it may be missing), as the steps declare them."""
    types = {"TEXT": str, "INTEGER": int, "REAL": float}
    with closing(sqlite3.connect(":memory:")) as plain:
        for statement in (s for step in STEPS for s in step):
            plain.execute(statement)
        found = plain.execute('SELECT name, type, "notnull" FROM pragma_table_info(?)', (table,)).fetchall()
    return {name: (types[kind], not needed) for name, kind, needed in found}


def fits(table: str, values: Mapping[str, Any]) -> bool:
    """Whether a row may hold these values: a folder's files, and the database, may come from anybody."""
    for name, (wanted, may_miss) in columns(table).items():
        value = values[name]
        if value is None and may_miss:
            continue
        if type(value) is not wanted:
            return False
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return False
        if isinstance(value, str) and not is_utf8(value):
            return False
    return True


def is_utf8(text: str) -> bool:
    """Names of files may hold bytes that are no text."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def is_sound(run: Run) -> bool:
    """Whether its values are of the kinds that they are declared as."""
    row, scores = rows_of(run, "", "")
    return fits("runs", row) and all(fits("scores", score) for score in scores)


def rows_of(run: Run, path: str, stamp: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row of the one table, and rows of the other; the digest is to come."""
    facts = run.facts()
    low, high = facts.pop("interval") or (None, None)
    made, planned = facts.pop("updates")
    del facts["folder"], facts["scores"]
    row = {"path": path, "stamp": stamp, "digest": "", **facts}
    row |= {"low": low, "high": high, "made": made, "planned": planned}
    scores = [dict(zip(columns("scores"), (path, number, *astuple(s)))) for number, s in enumerate(run.scores)]
    return row, scores


def put(store: sqlite3.Connection, path: str, stamp: str, run: Run) -> None:
    """The row of this run in place of the one before, inside the caller's transaction. A run whose folder has a name
    that is no text gets none: it is read from its folder each time."""
    drop(store, path)
    row, scores = rows_of(run, path, stamp)
    if not is_utf8(path) or not is_sound(run):
        return
    insert(store, "runs", {**row, "digest": digest(row, scores)})
    for score in scores:
        insert(store, "scores", score)


def digest(row: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> str:
    """Of a row and its scores: SQLite keeps no checksum, and a flipped bit would make another verdict."""
    said = [row[name] for name in columns("runs") if name != "digest"], [[*score.values()] for score in scores]
    return sha256_text(json.dumps(said))


def insert(store: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = list(columns(table))
    quoted, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
    store.execute(f"INSERT INTO {table} ({quoted}) VALUES ({marks})", [row[name] for name in names])


def drop(store: sqlite3.Connection, path: str) -> None:
    store.execute("DELETE FROM runs WHERE path = ?", (path,))


def get(store: sqlite3.Connection, path: str, folder: str) -> tuple[str, Run] | None:
    """(stamp, run) as it was put; `folder`: how it is named now. None where there is no such row, or an odd one."""
    found = select(store, "SELECT * FROM runs WHERE path = ?", path)
    if not found or not fits("runs", found[0]):
        return None
    scores = select(store, "SELECT * FROM scores WHERE path = ? ORDER BY number", path)
    row = found[0]
    if not all(fits("scores", score) for score in scores) or digest(row, scores) != row["digest"]:
        return None
    del row["path"], row["digest"]
    low, high = row.pop("low"), row.pop("high")
    stamp, made, planned = (row.pop(name) for name in ("stamp", "made", "planned"))
    return stamp, Run(
        **row, folder=folder, updates=(made, planned), interval=None if low is None or high is None else (low, high),
        scores=tuple(Score(*list(score.values())[2:]) for score in scores),
    )  # fmt: skip


def select(store: sqlite3.Connection, query: str, path: str) -> list[dict[str, Any]]:
    cursor = store.execute(query, (path,))
    return [dict(zip((d[0] for d in cursor.description), row)) for row in cursor]


def paths(store: sqlite3.Connection) -> Iterator[str]:
    """Of all rows, in order."""
    return (row[0] for row in store.execute("SELECT path FROM runs WHERE typeof(path) = 'text' ORDER BY path"))
