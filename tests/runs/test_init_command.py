"""From a spreadsheet to a recipe that runs: as a program calls it, and as a person at a terminal."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.house.test_command_help import cases, examples, words_of
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

COMMAND = [sys.executable, "-m", "tunesmith.cli.main"]


def spreadsheet(path: Path) -> Path:
    """As a European Excel saves it: semicolons and a byte-order mark."""
    rows = [json.loads(line) for line in tiny_runs.labelled_file(path.with_suffix(".jsonl")).read_text().splitlines()]
    with path.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out, delimiter=";")
        writer.writerow(["Nr", "Customer", "Comment", "Team"])
        writer.writerows([i, f"customer{i % 40}", row["text"], row["label"]] for i, row in enumerate(rows))
    path.with_suffix(".jsonl").unlink()
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_init_then_dry_run_then_run(tmp_path: Path) -> None:
    """The recipe is run as it was written; no question without a terminal."""
    model = tiny_runs.model_folder(tmp_path / "model")
    spreadsheet(tmp_path / "tickets.csv")
    done = typed(["init", "tickets.csv", "--model", "model"])
    assert done.code == 0, done.err
    shown = " ".join(done.out.split())
    assert "120 examples: from 'Comment' to one of 3 labels in 'Team'" in shown
    assert "tunesmith run recipe.yaml" in shown
    assert "learned: fox" in shown
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "group: Customer" in text
    assert f"model: {model.name}" in text

    dry = typed(["run", "recipe.yaml", "--dry-run"])
    assert dry.code == 0, dry.err
    assert "120 read = 120 accepted + 0 rejected" in dry.out
    assert "task: classify" in dry.out
    assert not (tmp_path / "runs").exists()

    fewer = ("train.max_updates=1", "evals.max_cases=4", "evals.guards=off", "evals.robustness=off")
    small = [word for key in fewer for word in ("--set", key)]
    run = typed(["run", "recipe.yaml", *small, "--out", "out", "--json"])
    assert run.code == 0, run.err
    assert json.loads(run.out)["num_cases"] == 4


def test_the_examples_of_help_run(tmp_path: Path) -> None:
    """Those that need no model: what a person copies from --help does what it says."""
    spreadsheet(tmp_path / "tickets.csv")
    cheap = {"init", "schema", "completion", "models list"}
    for name, command in cases():
        for example in examples(command.help or "") if name in cheap else ():
            done = typed(words_of(example))
            assert done.code == 0, (example, done.err)
            assert done.out, example
    assert json.loads(typed(["schema"]).out)["title"] == "A tunesmith recipe"


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    spreadsheet(tmp_path / "tickets.csv")
    (tmp_path / "recipe.yaml").write_text("model: x\n")
    for words, message in (
        (["tickets.csv"], "recipe.yaml is there already"),
        (["tickets.csv", "--out", "none/r.yaml"], "there is no folder none"),
        (["tickets.csv", "--out", "r.yaml", "--target", "Queue"], "no column 'Queue'; the file has: Nr, Customer"),
    ):
        done = typed(["init", *words])
        assert done.code == 2, (words, done.err)
        assert message in " ".join(done.err.split())
        assert "Traceback" not in done.err
    assert not (tmp_path / "r.yaml").exists()
    facts = json.loads(typed(["init", "tickets.csv", "--force", "--json"]).out)
    assert facts["settings"]["data"]["columns"]["group"] == "Customer"
    assert "group: Customer" in (tmp_path / facts["recipe"]).read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    """Enter takes what is proposed, a number takes a choice, and a wrong answer is asked again."""
    pty = pytest.importorskip("pty")
    tiny_runs.model_folder(tmp_path / "model")
    spreadsheet(tmp_path / "tickets.csv")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*COMMAND, "init", "tickets.csv", "--model", "model"], stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"Queue\n4\n\n1\n1\n")  # not there; Team; what is proposed; no group; one minute
    out, err = child.communicate(timeout=120)
    os.close(ours)
    assert child.returncode == 0, err
    assert "1. What should the model give back?" in err
    assert "no column 'Queue'" in err
    assert "4. How many minutes may it take?" in err
    assert "5. " not in err
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "label: Team" in text
    assert "group: " not in text
    assert "recipe.yaml is written" in out
