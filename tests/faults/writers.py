"""Processes that keep runs and write their rows, to be killed. They run in forks of the server that jobs.py starts."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

from tests.unit.report import run_folders

from tunesmith import recorded
from tunesmith.files import write_json
from tunesmith.folder import Silent
from tunesmith.store import database, rows

LATER = (  # a step that changes a table that is there, and moves its rows
    "CREATE TABLE sorted (path TEXT PRIMARY KEY, rank INTEGER NOT NULL)",
    "INSERT INTO sorted SELECT path, row_number() OVER (ORDER BY effect) FROM runs",
    "ALTER TABLE runs ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
    "UPDATE runs SET pinned = 1 WHERE path = 'a'",
    "CREATE INDEX by_effect ON runs (effect)",
)


class Said(Silent):
    """Keeps what a run would say of its store."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def folder(home: Path, name: str, number: int) -> Path:
    """A run that finished, or one that was there, with another verdict: whole on the disk when this returns."""
    verdict = {**run_folders.VERDICT, "effect": float(number), "claim": f"claim {number}"}
    if not (home / name).is_dir():
        fresh = home / f".new_{name}"
        run_folders.make(fresh, verdict=verdict, without=("scores/cases.parquet",))
        os.replace(fresh, home / name)
    write_json(home / name / "verdict.json", verdict)
    return home / name


def write(out: str, answer: Connection, events: Connection, options: dict[str, Any]) -> None:
    """`num` runs named after `name`, and one that everybody writes; "w" after each that is on the disk, "r" after each
    row. Effects grow from `begin` on: a folder never says less than a row that an earlier process wrote of it.
    `row_first`: the mutant that commits before it publishes; at the run of this number it waits there to be killed."""
    home, said, begin = Path(out), Said(), options.get("begin", 0)
    for number in range(begin, begin + options["num"]):
        for name in (f"{options['name']}{number % options.get('of', options['num'])}", *options.get("shared", ())):
            if "row_first" in options:
                with database.opened(home / database.NAME) as store, database.transaction(store):
                    kept = rows.get(store, name, name)
                    assert kept is not None
                    facts = {**kept[1].facts(), "effect": float(number), "scores": (), "interval": None}
                    rows.put(store, name, "", rows.Run(**facts))
                os.write(events.fileno(), b"r")
                if number == options["row_first"]:
                    signal.pause()
            folder(home, name, number)
            os.write(events.fileno(), b"w")
            if "row_first" not in options:
                recorded.record(home / name, said)
                os.write(events.fileno(), b"r")
    answer.send(said.lines)


class Trap:
    """Kills this process just before the statement with this number, of all that it asks of a database on the disk."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.connect = sqlite3.connect

    def __call__(self, name: Any, *args: Any, **options: Any) -> sqlite3.Connection:
        made = self.connect(name, *args, **options)
        if name != ":memory:":
            made.set_trace_callback(self.count)
        return made

    def count(self, statement: str) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def trapped(out: str, answer: Connection, events: Connection, options: dict[str, Any]) -> None:
    """One piece of work, with a trap in it. `torn`: the mutant without transactions."""
    home = Path(out)
    work = nullcontext if options.get("torn") else database.transaction
    with (
        mock.patch.object(sqlite3, "connect", Trap(options["at"])),
        mock.patch.object(database, "transaction", work),
        mock.patch.object(recorded, "transaction", work),
    ):
        WORKS[options["work"]](home)
    answer.send("done")


def record(home: Path) -> None:
    recorded.record(home / "a", Silent())


def rebuild(home: Path) -> None:
    with mock.patch.object(recorded, "checked"):  # which only reads
        recorded.rebuild(home)


def migrate(home: Path) -> None:
    store = sqlite3.connect(home / database.NAME, isolation_level=None)
    database.migrate(store, (*rows.STEPS, LATER))
    store.close()


WORKS = {"record": record, "rebuild": rebuild, "migrate": migrate}
