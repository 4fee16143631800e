"""The rehearsal changes no bit, and what would fail late fails in it. R6, R11, R19: a whole run that is resumed."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.faults.conftest import Counted
from tests.runs import tiny_runs

from tunesmith import plan
from tunesmith.errors import InputError, Interrupted, RunError
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("world"))


def do(here: Path, out: Path, *, resume: bool = False, tell: Any = None, **train: Any) -> dict[str, Any]:
    settings = tiny_runs.settings(here / "model", here / "rows.jsonl", max_updates=2, watch=0, **train)
    settings["export"] = ["adapter"]
    return run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


@pytest.fixture(scope="module")
def plain(here: Path) -> Path:
    """A run without a rehearsal, that nothing happened to."""
    do(here, here / "plain")
    return here / "plain"


def same_run(one: Path, other: Path) -> bool:
    weights = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, other)]
    verdicts = [json.loads((out / "verdict.json").read_text()) for out in (one, other)]
    answers = [(out / "scores" / "tuned.json").read_text() for out in (one, other)]
    verdicts = [{**v, "run": "", "notes": [], "openings": []} for v in verdicts]  # a second run has looked before
    same_weights = all(torch.equal(t, weights[1][n]) for n, t in weights[0].items())
    return same_weights and verdicts[0] == verdicts[1] and answers[0] == answers[1]


def test_a_run_with_a_rehearsal_is_the_run_without(here: Path, plain: Path, tmp_path: Path, counted: Counted) -> None:
    out = tmp_path / "out"
    do(here, out, rehearsal=True)
    assert same_run(out, plain)
    steps = json.loads((out / "rehearsal.json").read_text())["seconds"]
    assert len(steps) == 4
    stages = [s["name"] for s in json.loads((out / "cost.json").read_text())["stages"]]
    assert stages.index("rehearsal") < stages.index("baseline")
    assert not (plain / "rehearsal.json").exists()
    assert not list(out.glob(".partial*"))
    counted("Rehearsal", f"{len(steps)} steps, then the same weights, answers and verdict bit by bit")


class StopIn(Silent):
    """A signal where the tuned model answers."""

    def step(self, done: int, total: int, text: str) -> None:
        if text.startswith("tuned on") and done:
            signal.raise_signal(signal.SIGTERM)


def test_stopped_while_it_is_evaluated(here: Path, plain: Path, tmp_path: Path, counted: Counted) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted) as stopped:
        do(here, out, tell=StopIn(), micro_tokens=128)
    assert stopped.value.exit_code == 75
    assert not (out / "scores" / "tuned.json").exists()
    assert (out / "scores" / "partial_tuned.jsonl").stat().st_size > 100  # what was answered is kept
    do(here, out, resume=True, micro_tokens=128)
    whole = tmp_path / "whole"
    do(here, whole, micro_tokens=128)
    assert same_run(out, whole)
    counted("R11", "SIGTERM while the tuned model answers: exit 75, answers kept, then the same verdict")


@pytest.mark.parametrize("late", ["open_adapter", "checkpoint", "answers"])
def test_what_would_fail_late_fails_first(
    late: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = importlib.import_module("tunesmith.rehearse")

    def fails(*args: Any, **options: Any) -> None:
        raise RunError("would have failed in hour five")

    where = {"open_adapter": (rehearsal, "open_adapter"), "checkpoint": (rehearsal.checkpoint, "write"),
             "answers": (rehearsal.Session, "sample")}[late]  # fmt: skip
    monkeypatch.setattr(*where, fails)
    with pytest.raises(RunError, match="hour five"):
        do(here, tmp_path / "out", rehearsal=True)
    assert not (tmp_path / "out" / "scores").exists()
    assert json.loads((tmp_path / "out" / "cost.json").read_text())["stages"][-1]["name"] == "rehearsal"
    assert not list((tmp_path / "out").glob(".partial*"))


def test_a_resume_as_another_run_is_refused(
    here: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    for name in ("verdict.json", "export.json"):
        (out / name).unlink()
    with pytest.raises(InputError, match=r"train\.lr changed since then"):
        do(here, out, resume=True, lr=0.5)
    refused = {"recipe": 1}
    version = plan.importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(plan.importlib.metadata, "version", lambda name: "9.9" if name == "peft" else version(name))
        with pytest.raises(InputError, match=r"started: packages\.peft changed"):
            do(here, out, resume=True)
        refused["library"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(plan, "code_digest", lambda: "0" * 64)
        with pytest.raises(InputError, match="started: code changed"):
            do(here, out, resume=True)
        refused["code"] = 1
    rows = (here / "rows.jsonl").read_text()
    (here / "rows.jsonl").write_text(rows + '{"text": "one more fox", "label": "fox"}\n')
    with pytest.raises(InputError, match="changed since then"):
        do(here, out, resume=True)
    (here / "rows.jsonl").write_text(rows)
    refused["data"] = 1
    assert do(here, out, resume=True)["decision"]
    counted("R19", f"a resume with another {', '.join(sorted(refused))}: refused; with what it was made of: it goes on")
