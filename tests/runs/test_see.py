"""A run that is watched, stopped and gone on with: the same bits, nothing asked twice, the command to the letter."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.runs import forked, tiny_runs

from tunesmith import watch
from tunesmith.engine.session import Session
from tunesmith.errors import Interrupted
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> dict[str, Any]:
    return run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def same_verdict(one: Path, other: Path) -> bool:
    """But for the run's name, and for how often its cases were looked at before."""
    found = []
    for path in (one, other):
        facts = json.loads((path / "verdict.json").read_text())
        notes = [n for n in facts["notes"] if "were opened" not in n]
        found.append({**facts, "run": "", "openings": [], "notes": notes})
    return found[0] == found[1]


def dropping(model: Path, folder: Path, **train: Any) -> dict[str, Any]:
    """Settings with dropout, so that a random number drawn in between would show; no export but the adapter."""
    settings = tiny_runs.settings(model, tiny_runs.reply_file(folder / "rows.jsonl"), **train)
    return settings | {"adapt": {"rank": 4, "dropout": 0.2}, "export": ["adapter"]}


class StopAt(Silent):
    """Sends this process a signal when a step of some name is so far."""

    def __init__(self, text: str, done: int, number: int = signal.SIGINT) -> None:
        self.text, self.done, self.number = text, done, number
        self.seen: list[tuple[str, int]] = []

    def step(self, done: int, total: int, text: str) -> None:
        self.seen.append((text, done))
        if text == self.text and done == self.done:
            signal.raise_signal(self.number)


def test_watching_changes_no_bit_and_a_resume_answers_the_same(model: Path, tmp_path: Path) -> None:
    said = {"watch": 2, "watch_prompts": ["dog 7: what is it?"], "every_watch": 3}
    watched, plain = dropping(model, tmp_path, **said), dropping(model, tmp_path, watch=0)
    do(watched, tmp_path / "watched")
    do(plain, tmp_path / "plain")
    assert same_weights(tmp_path / "watched", tmp_path / "plain")
    assert same_verdict(tmp_path / "watched", tmp_path / "plain")
    assert not (tmp_path / "plain" / watch.NAME).exists()
    rows = lines(tmp_path / "watched" / watch.NAME)
    last = max(r["update"] for r in lines(tmp_path / "watched" / "metrics.jsonl"))
    assert [r["update"] for r in rows[::3]] == [0, *range(3, last, 3), last]
    assert [r["example_id"] for r in rows[:3]] == [r["example_id"] for r in rows[-3:]]
    assert rows[0]["prompt"] == "dog 7: what is it?"
    assert rows[0]["reference"] == ""
    assert all(r["reference"].startswith("the ") for r in rows if r["example_id"] != "said-1")

    class AfterUpdate(Silent):
        def updated(self, update: int, num_updates: int, facts: Any) -> None:
            if update == 5:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after update 5"):
        do(watched, tmp_path / "cut", AfterUpdate())
    do(watched, tmp_path / "cut", resume=True)
    assert lines(tmp_path / "cut" / watch.NAME) == rows
    assert same_weights(tmp_path / "cut", tmp_path / "plain")


def test_mutant_a_watch_that_moves_the_weights_is_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Session.sample

    def careless(self: Session, who: Any, *args: Any, **more: Any) -> Any:
        if who == "tuned":  # the live weights; evaluation asks snapshots
            next(iter(self.tenants[who].masters.values())).add_(1e-6)
        return sample(self, who, *args, **more)

    do(dropping(model, tmp_path, watch=0), tmp_path / "plain")
    monkeypatch.setattr(Session, "sample", careless)
    do(dropping(model, tmp_path, watch=2), tmp_path / "watched")
    assert not same_weights(tmp_path / "watched", tmp_path / "plain")


@pytest.mark.parametrize(
    ("text", "done", "file", "make"),
    [
        ("base on the held-out cases", 8, "partial_base.jsonl", tiny_runs.reply_file),
        ("base on dev, form by form", 8, "partial_dev_1.jsonl", tiny_runs.reply_file),
        ("tuned on the held-out cases", 4, "partial_tuned.jsonl", tiny_runs.reply_file),
        ("tuned on the held-out cases", 6, "partial_tuned.jsonl", tiny_runs.labelled_file),
    ],
)
def test_answers_are_kept_batch_by_batch(
    model: Path, tmp_path: Path, text: str, done: int, file: str, make: Callable[[Path], Path]
) -> None:
    settings = tiny_runs.settings(model, make(tmp_path / "rows.jsonl")) | {"export": ["adapter"]}
    settings["evals"] |= {"rows": 2, "max_cases": 12}
    settings["train"] |= {"max_updates": 2, "micro_tokens": 64}
    heard = StopAt(text, done, signal.SIGTERM)
    do(settings, tmp_path / "whole", whole := StopAt("", 0))
    done_at = [n for t, n in whole.seen if t == text]
    heard.done = next(n for n in done_at if n >= done)  # batches of labels are cut by tokens
    with pytest.raises(Interrupted, match="between two batches of answers"):
        do(settings, tmp_path / "cut", heard)
    assert len(lines(tmp_path / "cut" / "scores" / file)) > 1
    do(settings, tmp_path / "cut", after := StopAt("", 0), resume=True)
    again = [n for t, n in after.seen if t == text]
    tail = done_at[done_at.index(heard.done) :]
    assert again[-len(tail) :] == tail
    assert len(again) <= len(tail) + 1  # of the form before, that all its answers are there
    assert same_verdict(tmp_path / "whole", tmp_path / "cut")
    names = ["base.json", "tuned.json", "forms.json"]
    for name in names:
        assert (tmp_path / "whole/scores" / name).read_text() == (tmp_path / "cut/scores" / name).read_text()
    assert list((tmp_path / "cut" / "scores").glob("partial_*")) == []


def test_answers_of_another_asking_are_not_taken(model: Path, tmp_path: Path) -> None:
    """The mutant: without its key, a file of kept answers would be believed whatever was asked."""
    settings = tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl")) | {"export": ["adapter"]}
    settings["evals"] |= {"rows": 2, "max_cases": 12}
    settings["train"] |= {"max_updates": 2}
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "cut", StopAt("base on the held-out cases", 4))
    path = tmp_path / "cut" / "scores" / "partial_base.jsonl"
    key, *rows = path.read_text().splitlines()
    half = rows[-1][: len(rows[-1]) // 2]
    path.write_text("\n".join([key, *rows[:-1], half]))
    do(settings, tmp_path / "cut", half_a_line := StopAt("", 0), resume=True)
    assert next(n for t, n in half_a_line.seen if t == "base on the held-out cases") == 2
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "other", StopAt("base on the held-out cases", 4))
    settings["evals"]["rows"] = 3
    (tmp_path / "other" / "recipe.yaml").write_text(yaml.safe_dump(settings))  # else the resume itself is refused
    do(settings, tmp_path / "other", other := StopAt("", 0), resume=True)
    assert next(n for t, n in other.seen if t == "base on the held-out cases") == 0


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return forked.started(*words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def heard(process: subprocess.Popen[str], until: Callable[[str], bool]) -> str:
    """What it says up to a line."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if until(line):
            return said
    raise AssertionError(f"it ended before that: {said}")


def test_ctrl_c_of_a_process_prints_the_command_that_goes_on(model: Path, tmp_path: Path) -> None:
    settings = dropping(model, tmp_path, epochs=16, every_checkpoint=20)
    (tmp_path / "a recipe.yaml").write_text(yaml.safe_dump(settings))
    process = started(tmp_path, "run", "a recipe.yaml", "--out", "my run", "--json", "--require-better")
    said = heard_files(tmp_path / "my run" / "metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, said + err
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1].strip()
    assert last == "tunesmith run --out 'my run' --resume --json --require-better"
    assert "which is saved" in err
    done = max(r["update"] for r in lines(tmp_path / "my run" / "metrics.jsonl"))
    assert (tmp_path / "my run" / "checkpoints" / f"update_{done:07d}" / "manifest.json").is_file()
    went_on = started(tmp_path, *shlex.split(last)[1:])
    out, err = went_on.communicate(timeout=240)
    assert went_on.returncode in (0, 3), err
    assert json.loads(out)["run"] == "my run"
    for noise in ("Loading weights", "Writing model shards", "it/s"):
        assert noise not in err
    do(settings, tmp_path / "whole")
    assert same_weights(tmp_path / "whole", tmp_path / "my run")
    assert same_verdict(tmp_path / "whole", tmp_path / "my run")


def heard_files(path: Path, process: subprocess.Popen[str], num: int = 4) -> str:
    """Waits until a file has some lines: with --json nothing is said."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        if path.is_file() and len(path.read_text().splitlines()) >= num:
            return ""
        time.sleep(0.05)
    raise AssertionError(f"{path} has no {num} lines")


def test_the_second_ctrl_c_stops_at_once_and_loses_no_checkpoint(model: Path, tmp_path: Path) -> None:
    settings = dropping(model, tmp_path, epochs=60, every_checkpoint=5)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    process = started(tmp_path, "run", "r.yaml", "--out", "out")
    heard(process, lambda line: line.startswith("train"))
    heard_files(tmp_path / "out" / "metrics.jsonl", process, 12)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.strip().splitlines()[-1].strip() == "tunesmith run --out out --resume"
    assert "Traceback" not in err
    newest = max(int(p.name[-7:]) for p in (tmp_path / "out" / "checkpoints").glob("update_*"))
    done = max(r["update"] for r in lines(tmp_path / "out" / "metrics.jsonl"))
    # It does not wait for the one that is being written: the newest whole one is at most that one's distance behind.
    assert done - newest < 5 + 5


def test_ctrl_c_before_anything_is_kept_says_so(model: Path, tmp_path: Path) -> None:
    settings = tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    process = started(tmp_path, "run", "r.yaml", "--out", "out")
    heard(process, lambda line: line.startswith("prepare"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.strip().splitlines()[-1].strip() == "tunesmith run --out out --resume"
    assert "Traceback" not in err
