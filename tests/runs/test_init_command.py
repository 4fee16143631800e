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


def tunesmith(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, timeout=300, check=False, stdin=subprocess.DEVNULL
    )


def test_init_then_dry_run_then_run(tmp_path: Path) -> None:
    """The recipe is run as it was written; no question without a terminal."""
    model = tiny_runs.model_folder(tmp_path / "model")
    spreadsheet(tmp_path / "tickets.csv")
    done = tunesmith("init", "tickets.csv", "--model", "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "120 examples: from 'Comment' to one of 3 labels in 'Team'" in shown
    assert "tunesmith run recipe.yaml" in shown
    assert "learned: fox" in shown
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "group: Customer" in text
    assert f"model: {model.name}" in text

    dry = tunesmith("run", "recipe.yaml", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "120 read = 120 accepted + 0 rejected" in dry.stdout
    assert "task: classify" in dry.stdout
    assert not (tmp_path / "runs").exists()

    fewer = ("train.max_updates=1", "evals.max_cases=4", "evals.guards=off", "evals.robustness=off")
    small = [word for key in fewer for word in ("--set", key)]
    run = tunesmith("run", "recipe.yaml", *small, "--out", "out", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["num_cases"] == 4


def test_the_examples_of_help_run(tmp_path: Path) -> None:
    """Those that need no model: what a person copies from --help does what it says."""
    spreadsheet(tmp_path / "tickets.csv")
    cheap = {"init", "schema", "completion", "models list"}
    for name, command in cases():
        for example in examples(command.help or "") if name in cheap else ():
            done = tunesmith(*words_of(example), cwd=tmp_path)
            assert done.returncode == 0, (example, done.stderr)
            assert done.stdout, example
    assert json.loads(tunesmith("schema", cwd=tmp_path).stdout)["title"] == "A tunesmith recipe"


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    spreadsheet(tmp_path / "tickets.csv")
    (tmp_path / "recipe.yaml").write_text("model: x\n")
    for words, message in (
        (["tickets.csv"], "recipe.yaml is there already"),
        (["tickets.csv", "--out", "none/r.yaml"], "there is no folder none"),
        (["tickets.csv", "--out", "r.yaml", "--target", "Queue"], "no column 'Queue'; the file has: Nr, Customer"),
    ):
        done = tunesmith("init", *words, cwd=tmp_path)
        assert done.returncode == 2, (words, done.stderr)
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.yaml").exists()
    facts = json.loads(tunesmith("init", "tickets.csv", "--force", "--json", cwd=tmp_path).stdout)
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
