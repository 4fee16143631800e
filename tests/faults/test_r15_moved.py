"""R15 and R3 in a whole run: its rows come after its files, and it opens wherever its folder is carried."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.faults.disks import Durable
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.unit.report import run_folders

from tunesmith import lineage, recorded, runs
from tunesmith.folder import Silent
from tunesmith.opened import open_run
from tunesmith.store.database import NAME
from tunesmith.types import Message


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """runs/first, run in this folder; and before each row, which of its files were not on the disk for sure."""
    where = tiny_runs.world(tmp_path_factory.mktemp("real"))
    recipe = tiny_runs.settings(where / "model", where / "rows.jsonl", max_updates=2)
    (where / "recipe.yaml").write_text(json.dumps(recipe | {"export": ["adapter"]}))
    (where / "runs").mkdir()
    disk, unsure, before, here = Durable(where / "runs"), [], recorded.record, Path.cwd()

    def record(out: Path, tell: Any) -> None:
        unsure.append(not_synced(disk, out))
        before(out, tell)

    os.chdir(where)
    try:
        with disk.watching(), mock.patch.object(recorded, "record", record), mock.patch.object(Durable, "image"):
            done = typed(["run", "recipe.yaml", "--out", "runs/first", "--json"])
    finally:
        os.chdir(here)
    assert done.code == 0, done.text
    return where, unsure


def not_synced(disk: Durable, out: Path) -> list[str]:
    """Files that a row is made of, whose bytes or whose name may be lost with the power."""
    names = disk.names.get(out.stat().st_ino, {})
    there = [(name, (out / name).stat().st_ino) for name in recorded.READ if (out / name).is_file()]
    return [n for n, i in there if names.get(n) != i or disk.contents.get(i) != (out / n).read_bytes()]


def test_a_row_comes_after_its_files_are_on_the_disk(real: tuple[Path, list[list[str]]], tmp_path: Path) -> None:
    """R3, in a whole run: once it is prepared, and at its end. Mutant: a file that nobody synced."""
    where, unsure = real
    assert unsure == [[], []]
    assert recorded.checked(where / "runs")["differ"] == []
    disk = Durable(tmp_path)
    with disk.watching(), mock.patch.object(Durable, "image"):
        run_folders.make(tmp_path / "a")
    assert "verdict.json" in not_synced(disk, tmp_path / "a")


def test_a_run_that_was_moved_opens(real: tuple[Path, list[list[str]]], tmp_path: Path) -> None:
    """To another folder of another name; the base stays where its recipe says."""
    shutil.copytree(real[0] / "runs" / "first", tmp_path / "far" / "away")
    moved = tmp_path / "far" / "away"
    recorded.record(moved, Silent())  # neither "runs" nor a store: none is made
    assert not (tmp_path / "far" / NAME).exists()
    assert recorded.rebuild(tmp_path)["rows"] == 1
    [run] = recorded.find(tmp_path)[0]
    assert (run.folder, run.state, run.id) == (str(moved), "finished", runs.read(real[0] / "runs" / "first").id)
    assert typed(["report", str(moved)]).code == 0
    verified = typed(["verify", str(moved)])
    assert verified.code == 0, verified.text
    assert set(open_run(moved).complete("tuned", [[Message("user", "the quick fox 3")]])[0].text)
    assert typed(["chat", str(moved), "--once", "the quick fox 3"]).code == 0
    assert recorded.checked(tmp_path)["differ"] == []


def test_where_a_model_comes_from(tmp_path: Path) -> None:
    home = tmp_path
    for name in ("first", "second"):
        run_folders.make(home / name)
        lineage.begin(home / name)
    lineage.begin(home / "second")  # a resume
    (home / "first" / "merged").mkdir()
    lineage.note_parent(home / "second", home / "first" / "merged")
    first, second = (runs.read(home / name) for name in ("first", "second"))
    assert (second.parent, second.parent_id) == ("first", first.id)
    assert len({first.id, second.id, ""}) == 3
    lineage.note_parent(home / "first", home.parent)  # no run's model
    assert runs.read(home / "first").parent == ""
    os.replace(home / "first", home / "renamed")
    assert recorded.rebuild(home)["rows"] == 2
    assert {run.folder: run.id for run in recorded.find(home)[0]}[str(home / "renamed")] == first.id
