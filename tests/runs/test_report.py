"""What a real run, whole or stopped, gives a reader; and the command that makes it again."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
import yaml
from tests.runs import tiny_runs
from tests.unit.report.page_reader import form_faults, read_page
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.errors import Interrupted
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model = tiny_runs.model_folder(folder / "model")
    settings = tiny_runs.settings(model, tiny_runs.labelled_file(folder / "rows.jsonl"))
    run(parse(settings), yaml.safe_dump(settings), folder / "out", Silent())
    return folder / "out"


def test_a_whole_run_answers_the_five_questions(whole: Path) -> None:
    text = (whole / "report.html").read_text(encoding="utf-8")
    page = read_page(text)
    assert form_faults(text) == []
    for question in ("Is it better?", "By how much?", "How sure is that?", "What did it lose?", "May I use it?"):
        assert question in page.words
    verdict = json.loads((whole / "verdict.json").read_text(encoding="utf-8"))
    assert len(page.having("article", class_="case")) == verdict["num_cases"]
    assert "files of this run are missing" not in page.words
    assert page.row("adapter")[-1] == "✓ the same"
    for word in ("Watched prompts", "temperature", "Learning rate", "Speed, tokens per second"):
        assert (word in page.words) is has(whole, word), word


def has(run_folder: Path, word: str) -> bool:
    """Whether the run left the file that this part of the page shows."""
    if word == "temperature":
        found = run_folder / "calibration.json"
        return found.is_file() and json.loads(found.read_text(encoding="utf-8"))["calibrated"]
    return word != "Watched prompts" or (run_folder / "watched.jsonl").is_file()


class StopsAtTraining(Silent):
    def stage(self, name: str, budget_s: float | None) -> None:
        if name == "train":
            raise Interrupted("stopped")


def test_a_run_that_stops_after_the_baseline_has_a_report_of_it(tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "r.jsonl")
    settings = tiny_runs.settings(tiny_runs.model_folder(tmp_path / "model"), data)
    with pytest.raises(Interrupted):
        run(parse(settings), yaml.safe_dump(settings), tmp_path / "out", StopsAtTraining())
    page = read_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "Not compared yet." in page.words
    assert "Training had not begun." in page.words
    assert "on average over 20 cases" in page.words
    assert len(page.having("article", class_="case")) == 20
    assert page.row("baseline")[0] == "baseline"
    assert "Not compared yet." in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_the_command_prints_the_path_and_opens_on_request(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    found = CliRunner().invoke(app, ["report", str(whole)])
    assert found.output.strip() == str(whole / "report.html")
    assert opened == []
    CliRunner().invoke(app, ["report", str(whole), "--open"], catch_exceptions=False)
    assert opened == [(whole / "report.html").resolve().as_uri()]


def test_no_browser_is_said(whole: Path) -> None:
    """In an environment that names no browser and has no screen."""
    call = [sys.executable, "-m", "tunesmith.cli.main", "report", str(whole), "--open"]
    done = subprocess.run(call, capture_output=True, text=True, env={"PATH": "", "BROWSER": "/no/browser"}, check=False)
    assert done.returncode == 2, done.stderr
    assert "no browser was found" in done.stderr
    assert "Traceback" not in done.stderr
