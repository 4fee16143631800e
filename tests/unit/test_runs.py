"""What `tunesmith runs` tells of a folder, from its files alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report import run_folders

from tunesmith import runs
from tunesmith.errors import InputError, Interrupted, NotFinite
from tunesmith.folder import PROCESS, RunFolder, Silent, this_process


def stopped(folder: Path, stages: list[dict[str, Any]], **others: Any) -> Path:
    """A run that did not come to its verdict."""
    run_folders.make(folder, verdict=None, without=("scores/cases.parquet", "export.json"), **others)
    (folder / "cost.json").write_text(json.dumps({"stages": stages, "total_s": 12.0, "peak_gib": 1.5}))
    return folder


PREPARED = [{"name": "prepare", "seconds": 1.0}, {"name": "baseline", "seconds": 5.0}]


def test_a_finished_run(tmp_path: Path) -> None:
    run = runs.read(run_folders.make(tmp_path / "a"))
    assert (run.state, run.where, run.decision) == ("finished", "", "better")
    assert (run.effect, run.interval, run.metric) == (0.3, (0.0625, 0.5125), "accuracy")
    assert (run.total_s, run.peak_gib, run.updates) == (142.0, 1.625, (3, 3))
    assert (run.model, run.data, run.task) == ("smollm2-135m-instruct", "inbox.csv", "classify")


@pytest.mark.parametrize(
    ("stages", "metrics", "state", "where"),
    [
        (PREPARED, run_folders.METRICS[:3], "interrupted", "at update 2 of 3"),
        (PREPARED[:1], [], "interrupted", "before the end of rehearsal"),
        ([], [], "interrupted", "in prepare"),
        ([*PREPARED, {"name": "train", "stopped_by": "Interrupted: after 2"}], run_folders.METRICS[:3], "interrupted",
         "at update 2 of 3"),
        ([*PREPARED, {"name": "train", "stopped_by": "KeyboardInterrupt: "}], [], "interrupted", "at update 0 of 3"),
        ([*PREPARED, {"name": "train", "stopped_by": "NotFinite: no parameter\nwas changed"}], [], "failed",
         "in train: no parameter was changed"),
        ([*PREPARED, {"name": "train", "seconds": 9.0}], run_folders.METRICS, "interrupted",
         "before the end of evaluate"),
        ([PREPARED[0], {"name": "train", "seconds": 9.0}, {"name": "export", "seconds": 1.0}], run_folders.METRICS,
         "trained", "not measured"),
        ([*PREPARED, {"name": "train", "seconds": 9.0}, {"name": "export", "seconds": 1.0}], run_folders.METRICS,
         "interrupted", "before the end of the verdict"),
    ],
)  # fmt: skip
def test_how_far_a_run_came(stages: Any, metrics: Any, state: str, where: str, tmp_path: Path) -> None:
    run = runs.read(stopped(tmp_path / "a", stages, metrics=metrics))
    assert (run.state, run.where, run.decision) == (state, where, None)


def test_a_stage_that_the_recipe_leaves_out_is_not_waited_for(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "a", PREPARED[:1])
    (folder / PROCESS).write_text(json.dumps(this_process()))
    (folder / "recipe.yaml").write_text("train: {rehearsal: false}\nevals: {guards: 'off'}\n")
    assert runs.read(folder).where == "in baseline"
    asked = [*PREPARED, {"name": "train", "seconds": 9.0}, {"name": "evaluate", "seconds": 9.0}]
    (folder / "cost.json").write_text(json.dumps({"stages": asked}))
    assert runs.read(folder).where == "in export"


def test_a_run_is_on_while_its_process_is_there(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "a", PREPARED, metrics=run_folders.METRICS[:1])
    (folder / PROCESS).write_text(json.dumps(this_process()))
    assert (runs.read(folder).state, runs.read(folder).where) == ("running", "at update 1 of 3")
    for other in ({"pid": 2**22 + 1}, {"began_s": 1.0}, {"host": "elsewhere"}):  # gone, used again, another machine
        (folder / PROCESS).write_text(json.dumps({**this_process(), **other}))
        assert runs.read(folder).state == "interrupted"


def test_what_stopped_a_stage_is_kept(tmp_path: Path) -> None:
    """In one process: stopped, then on again, then failed."""
    folder = RunFolder.open(tmp_path / "a", Silent(), resume=False)
    folder.write_text("recipe.yaml", "model: m\n")
    with pytest.raises(Interrupted), folder.stage("prepare"):
        raise Interrupted("stopped")
    folder.close()
    assert runs.read(tmp_path / "a").state == "interrupted"
    again = RunFolder.open(tmp_path / "a", Silent(), resume=True)
    later = os.stat(tmp_path / "a" / "cost.json").st_mtime_ns + 10**9
    os.utime(tmp_path / "a" / PROCESS, ns=(later, later))
    assert runs.read(tmp_path / "a").state == "running"
    with pytest.raises(NotFinite), again.stage("prepare"):
        raise NotFinite(("e1",))
    os.utime(tmp_path / "a" / "cost.json", ns=(later, later))
    run = runs.read(tmp_path / "a")
    assert run.state == "failed"
    assert "not finite" in run.where


def test_all_runs_below_a_folder_and_nothing_else(tmp_path: Path) -> None:
    run_folders.make(tmp_path / "old" / "a")
    run_folders.make(tmp_path / "b", verdict={**run_folders.VERDICT, "effect": 0.5})
    run_folders.make(tmp_path / "b" / "inner")  # belongs to b
    (tmp_path / "recipe.yaml").write_text("model: x\n")  # a recipe beside the runs is no run
    (tmp_path / ".partial_x").mkdir()
    broken = run_folders.make(tmp_path / "c")
    (broken / "verdict.json").write_text("{")
    found = runs.find(tmp_path, "effect")
    assert [Path(r.folder).name for r in found] == ["b", "a", "c"]
    assert [r.state for r in found] == ["finished", "finished", "unreadable"]
    assert "verdict.json" in found[2].where
    assert [Path(r.folder).name for r in runs.find(tmp_path, "name")] == ["b", "c", "a"]
    with pytest.raises(InputError, match="--sort"):
        runs.find(tmp_path, "size")
    with pytest.raises(InputError, match="no folder"):
        runs.find(tmp_path / "none")


def test_the_stages_are_those_of_a_run() -> None:
    text = "".join((Path(runs.__file__).parent / f"{p}.py").read_text(encoding="utf-8") for p in ("run", "rehearse"))
    assert set(re.findall(r'folder\.stage\("(\w+)"', text)) == set(runs.STAGES[:-1])
