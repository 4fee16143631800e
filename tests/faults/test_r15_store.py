"""R15: the store of runs is whole after every kill, says nothing that the folders do not, and can be made again."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.faults import writers
from tests.faults.conftest import Counted
from tests.faults.jobs import Job
from tests.runs.mistakes import typed
from tests.unit.report import run_folders

from tunesmith import recorded, runs
from tunesmith.errors import BrokenStore, StoreError
from tunesmith.folder import Silent
from tunesmith.store import database, rows
from tunesmith.store.database import NAME, opened

NUM_KILLS = int(os.environ.get("TUNESMITH_KILLS", "20"))
NUM_WRITERS, NUM_EACH = 8, 6


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def kept(home: Path) -> Path:
    """Three runs, in the store."""
    for name in "abc":
        recorded.record(writers.folder(home, name, 0), Silent())
    return home


def dump(home: Path) -> dict[str, tuple[str, runs.Run]]:
    """Path -> (stamp, run), from the store alone; and the file is whole."""
    with opened(home / NAME) as store:
        database.check(store, home / NAME)
        found = {path: rows.get(store, path, path) for path in rows.paths(store)}
    return {path: row for path, row in found.items() if row is not None}


def ahead(home: Path) -> list[str]:
    """Rows that say what no folder does: their files were not there before them."""
    return [
        path
        for path, (_, run) in dump(home).items()
        if not runs.is_run(home / path) or (run.effect or 0) > (runs.read(home / path).effect or 0)
    ]


def is_durable(store: sqlite3.Connection) -> bool:
    told = {name: store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    return told == {"journal_mode": "wal", "synchronous": 2}


def test_write_ahead_log_and_full_synchronisation(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: synchronous=OFF, which no kill shows, since the system keeps what a dead process wrote."""
    with opened(kept / NAME) as store:
        assert is_durable(store)
        assert store.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert store.execute("PRAGMA trusted_schema").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            store.execute("SELECT load_extension('x')")
    off = [s.replace("synchronous = FULL", "synchronous = OFF") for s in database.SETTINGS]
    monkeypatch.setattr(database, "SETTINGS", off)
    with opened(kept / NAME) as store:
        assert not is_durable(store)


def killed(home: Path, at: int, pause_s: float, **options: Any) -> None:
    job = Job(home, target=writers.write, **{"name": "k", "num": 1000, "of": 5, **options})
    job.wait_for(b"r", at)
    time.sleep(pause_s)
    job.process.kill()
    job.end()


def test_kill_9_at_random_times(home: Path, counted: Counted) -> None:
    """While another process writes to the same store."""
    rng, unclean = random.Random(2026), 0
    beside = Job(home, target=writers.write, name="b", num=1000, of=3)
    for kill in range(NUM_KILLS):
        killed(home, rng.randint(1, 4), rng.random() * 0.03, begin=kill * 1000)
        unclean += (home / f"{NAME}-wal").exists()
        assert ahead(home) == []
    beside.process.kill()
    beside.end()
    found, said = recorded.find(home)
    assert (found, said) == (runs.find(home), "")
    assert {path: run for path, (_, run) in dump(home).items()} == {r.name: at(r, home) for r in runs.folders(home)}
    counted(
        "R15", f"{NUM_KILLS} kills -9 of a writing process, {unclean} left a log; whole, and no row before its files"
    )


def at(folder: Path, home: Path) -> runs.Run:
    told = runs.read(folder)
    return rows.Run(**{**{f: getattr(told, f) for f in told.__slots__}, "folder": folder.name})


def test_mutant_a_row_before_its_files_is_seen(kept: Path) -> None:
    """Killed between the commit and the files."""
    recorded.record(writers.folder(kept, "a0", 0), Silent())
    job = Job(kept, target=writers.write, name="a", num=9, of=1, row_first=2)
    job.wait_for(b"r", 3)
    job.process.kill()
    job.end()
    assert ahead(kept) == ["a0"]


def test_eight_writers_at_once(home: Path, counted: Counted) -> None:
    """From no store at all, each its own runs and one that all of them write."""
    writers.folder(home, "everybody", 0)
    jobs = [
        Job(home, target=writers.write, name=f"w{n}_", num=NUM_EACH, shared=("everybody",)) for n in range(NUM_WRITERS)
    ]
    said = [job.end() for job in jobs]
    assert said == [[]] * NUM_WRITERS  # "database is locked" would stand here
    rows_there = dump(home)
    assert len(rows_there) == NUM_WRITERS * NUM_EACH + 1
    facts = recorded.checked(home)
    assert [path for path in facts["differ"] if path != "everybody"] == []
    counted(
        "R15", f"{NUM_WRITERS} writers at once: {len(rows_there)} of {NUM_WRITERS * NUM_EACH + 1} rows, none locked"
    )


def at_each_statement(make: Callable[[Path], Path], work: str, **options: Any) -> Iterator[Path]:
    """What is left of `make()` where `work` is killed before its first, second … statement; last, where it is not."""
    for number in range(200):
        home = make(Path(str(number)))
        if Job(home, target=writers.trapped, work=work, at=number, **options).end() == "done":
            return
        yield home
    raise AssertionError("it never ended")


def copies(kept: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """Of the same store; its runs keep their inodes."""

    def copy(number: Path) -> Path:
        home = tmp_path / "copies" / number / "runs"
        home.mkdir(parents=True)
        shutil.copyfile(kept / NAME, home / NAME)
        for name in "abc":
            writers.folder(home, name, 1)
        return home

    return copy


def mixed(home: Path) -> list[str]:
    """Rows that are neither of before (effect 0) nor of after (effect 1), or that are lost."""
    found = dump(home)
    whole = [p for p, (_, run) in found.items() if run.claim == f"claim {run.effect:.0f}" and len(run.scores) == 1]
    return sorted({"a", "b", "c"} - set(whole))


@pytest.mark.parametrize("work", ["record", "rebuild"])
def test_killed_before_each_statement(work: str, kept: Path, tmp_path: Path, counted: Counted) -> None:
    """The rows are those of before or those of after."""
    num = 0
    for home in at_each_statement(copies(kept, tmp_path), work):
        num += 1
        assert mixed(home) == []
        assert {run.effect for _, run in dump(home).values()} in (
            {0.0},
            {1.0},
            {0.0, 1.0} if work == "record" else {0.0},
        )
    assert num > 10
    counted("R15", f"{work}: killed before each of {num} statements, the rows are old or new")


@pytest.mark.parametrize("work", ["record", "rebuild"])
def test_mutant_a_row_without_a_transaction_is_seen(work: str, kept: Path, tmp_path: Path) -> None:
    assert any(mixed(home) for home in at_each_statement(copies(kept, tmp_path), work, torn=True))


def state_of(home: Path) -> str:
    """ "old" or "new" schema and rows; else what is mixed."""
    with closing(sqlite3.connect(home / NAME)) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        number, made = database.version(store), database.schema(store)
        num = store.execute("SELECT count(*) FROM runs").fetchone()[0]
        for name, steps in (("old", rows.STEPS), ("new", (*rows.STEPS, writers.LATER))):
            if (number, made, num) == (len(steps), database.schema_of(steps), 3):
                return name
    return f"version {number}, {len(made)} parts, {num} rows"


def test_a_migration_killed_before_each_statement(kept: Path, tmp_path: Path, counted: Counted) -> None:
    left = [state_of(home) for home in at_each_statement(copies(kept, tmp_path), "migrate")]
    assert set(left) <= {"old", "new"}
    assert len(left) > len(writers.LATER)
    counted("R15", f"a migration killed before each of {len(left)} statements: old or new each time")


def test_mutant_a_migration_without_a_transaction_is_seen(kept: Path, tmp_path: Path) -> None:
    left = [state_of(home) for home in at_each_statement(copies(kept, tmp_path), "migrate", torn=True)]
    assert set(left) - {"old", "new"}


def test_made_again_it_is_what_it_was(kept: Path) -> None:
    """After runs were changed, removed and added."""
    recorded.record(writers.folder(kept, "b", 2), Silent())
    shutil.rmtree(kept / "c")
    recorded.record(kept / "c", Silent())
    run_folders.make(kept / "deeper" / "d", verdict=None)
    recorded.record(kept / "deeper" / "d", Silent())
    before = dump(kept)
    assert set(before) == {"a", "b", "deeper/d"}
    assert recorded.rebuild(kept)["differ"] == []
    assert dump(kept) == before
    (kept / NAME).unlink()
    recorded.rebuild(kept)
    assert dump(kept) == before


def other(*statements: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as store:
            for statement in statements:
                store.execute(statement)

    return change


def linked(path: Path) -> None:
    os.replace(path, path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


BREAKS: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "cut to a header": lambda p: p.write_bytes(p.read_bytes()[:100]),
    "empty": lambda p: p.write_bytes(b""),
    "a text": lambda p: p.write_text("these are not the rows you are looking for\n" * 99),
    "of a newer tunesmith": other("PRAGMA user_version = 99"),
    "with a trigger": other("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END"),
    "with a view of its own": other("DROP TABLE scores", "CREATE VIEW scores AS SELECT * FROM runs"),
    "scores without a run": other("PRAGMA foreign_keys = OFF", "DELETE FROM runs WHERE path = 'a'"),
    "without its log mode": other("PRAGMA journal_mode = DELETE"),
    "a link": linked,
    "a log that is a link": lambda p: p.with_name(f"{NAME}-wal").symlink_to("elsewhere"),
    "a journal beside it": lambda p: p.with_name(f"{NAME}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_store_is_named_and_made_anew(name: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in nobody's way: runs are listed from their folders, and a run ends as if it were not there."""
    monkeypatch.chdir(kept.parent)
    BREAKS[name](kept / NAME)
    checked = typed(["runs", "check"])
    assert checked.code == 1
    assert "tunesmith runs rebuild runs" in checked.text
    listed = typed(["runs", "--json"])
    assert [run["folder"] for run in json.loads(listed.out)] == [f"runs/{n}" for n in ("a", "b", "c")]
    said = writers.Said()
    recorded.record(kept / "a", said)
    if name != "scores without a run":  # read where it is looked for, at the start of nothing
        assert len([line for line in listed.err.splitlines() if "tunesmith.db" in line]) == 1, listed.err
        assert "tunesmith runs rebuild" in listed.text
        assert [NAME in line and "\n" not in line for line in said.lines] == [True]
    assert typed(["runs", "rebuild"]).code == 0
    assert typed(["runs", "check"]).text.endswith("runs/tunesmith.db: whole; rows: 3, runs on disk: 3")


def test_flipped_bits_never_show(kept: Path, counted: Counted) -> None:
    """A flip may be found or not; what is listed is what stands in the folders."""
    path, rng, named = kept / NAME, random.Random(7), 0
    whole, truth = path.read_bytes(), runs.find(kept)
    for _ in range(120):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        found, said = recorded.find(kept)
        named += bool(said)
        assert found == truth, at
    recorded.rebuild(kept)
    assert recorded.checked(kept)["differ"] == []
    counted("R15", f"120 flipped bits: {named} named, what was listed was right each time")


def test_a_store_that_is_held_or_cannot_be_written(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said in one line, and it is not thrown away."""
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    said = writers.Said()
    with opened(kept / NAME) as store, database.transaction(store):
        recorded.record(writers.folder(kept, "a", 5), said)
        with pytest.raises(StoreError, match="locked"):
            recorded.rebuild(kept)
        assert recorded.find(kept)[0] == runs.find(kept)
    assert len(said.lines) == 1
    assert "locked" in said.lines[0]
    assert set(dump(kept)) == {"a", "b", "c"}
    with mock.patch.object(os, "replace", side_effect=OSError(30, "Read-only file system")):
        fresh = kept.parent / "more" / "runs"
        run_folders.make(fresh / "x")
        recorded.record(fresh / "x", said)
    assert "Read-only file system" in said.lines[1]
    (fresh / NAME).mkdir()
    recorded.record(fresh / "x", said)
    assert "it is no file" in said.lines[2]
    with pytest.raises(StoreError) as raised:
        recorded.rebuild(fresh)
    assert not isinstance(raised.value, BrokenStore)


def test_a_run_that_comes_while_one_lists_is_not_lost(kept: Path) -> None:
    """Neither the row of a new run nor that of a newer verdict is overwritten by what was read before."""
    with opened(kept / NAME) as store:
        writers.folder(kept, "b", 1)
        shutil.rmtree(kept / "c")
        reader = recorded.Reader(kept, store, [])
        runs.find(kept, "name", reader)
        with mock.patch.object(recorded.Reader, "gone", return_value=["c", "d"]):
            for name, number in (("b", 2), ("d", 0)):
                recorded.record(writers.folder(kept, name, number), Silent())
            reader.catch_up()
    assert {path: run.effect for path, (_, run) in dump(kept).items()} == {"a": 0.0, "b": 2.0, "d": 0.0}


def test_what_comes_goes_and_moves_is_noticed(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept.parent)
    shutil.copytree("runs/a", "runs/copied")
    os.replace("runs/b", "runs/moved")
    shutil.rmtree("runs/c")
    facts = json.loads(typed(["runs", "check", "--json"]).out)
    assert sorted(facts["differ"]) == ["b", "c", "copied", "moved"]
    names = [run["folder"] for run in json.loads(typed(["runs", "--sort", "name", "--json"]).out)]
    assert names == ["runs/a", "runs/copied", "runs/moved"]
    assert set(dump(kept)) == {"a", "copied", "moved"}
    os.replace("runs", "elsewhere")
    assert [run["folder"] for run in json.loads(typed(["runs", "elsewhere", "--json"]).out)]
    assert recorded.checked(Path("elsewhere"))["differ"] == []


def test_a_strangers_store_and_names(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of any type, paths that lead out, names that move a terminal."""
    monkeypatch.chdir(kept.parent)
    evil = writers.folder(kept, "\x1b[31mred", 0)
    odd = ("UPDATE runs SET effect = x'00' WHERE path = 'a'", "UPDATE runs SET model = 7 WHERE path = 'b'",
           "UPDATE runs SET path = '../../../etc' WHERE path = 'c'")  # fmt: skip
    other("PRAGMA foreign_keys = OFF", *odd, "UPDATE scores SET path = '../../../etc' WHERE path = 'c'")(kept / NAME)
    listed = typed(["runs"])
    assert listed.code == 0
    assert "\x1b" not in listed.out
    assert "␛[31mred" in listed.text
    assert set(dump(kept)) == {"a", "b", "c", evil.name}
    shutil.rmtree(evil)
    (kept / "a" / "verdict.json").write_text(json.dumps({**run_folders.VERDICT, "decision": ["x"], "claim": 10**30}))
    assert typed(["runs", "--json"]).code == 0
    for name in ("lock.json", "plan.json", "verdict.json", "run.json"):
        (kept / "b" / name).write_text("[]" if name == "run.json" else '{"model": [], "interval": 3, "data": 1}')
    assert typed(["runs"]).text.count("unreadable") == 2
