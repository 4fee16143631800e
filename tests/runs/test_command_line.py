"""What a person types and sees: help, mistakes, exit codes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith.cli import job, kept_plan

COMMAND = [sys.executable, "-m", "tunesmith.cli.main"]


def tunesmith(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


# Each takes a good part of the half second that --help may take; bench/startup.py has the seconds.
SLOW = ("torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "pydantic", "peft", "tokenizers",
        "huggingface_hub", "psutil", "jinja2", "yaml", "asyncio", "sqlite3")  # fmt: skip


def test_help_is_quick_and_needs_nothing_slow() -> None:
    began = time.monotonic()
    done = tunesmith("--help")
    assert done.returncode == 0
    assert "quickstart" in done.stdout
    assert time.monotonic() - began < 5  # 0.5 s on an idle machine; this one may be busy
    code = (
        "import sys, tunesmith.cli.main as cli; sys.argv = ['tunesmith', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({{*{SLOW}}} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "[]"


def test_the_same_plan_is_shown_again_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_plan, "free_memory_gib", lambda: (10, 12))
    model = tiny_runs.model_folder(tmp_path / "model")
    (tmp_path / "rows").mkdir()
    shown = tiny_runs.labelled_file(tmp_path / "rows" / "train.jsonl")
    (tmp_path / "own.py").write_text("def score(output, reference):\n    return float(output == reference)\n")
    said = {"data": {"train": ["rows"], "max_tokens": 256}, "task": {"name": "generate", "metric": "own.py:score"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(said))
    command = ["plan", "recipe.yaml", "--model", str(model)]
    first = typed(command).out
    assert "kept from" not in first

    def again(*more: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(job, "recipe_of", lambda *_, **__: pytest.fail("it was planned"))
            return typed([*command, *more]).out

    assert again().startswith(first.rstrip())
    assert "kept from" in again()

    def planned(*more: str) -> None:
        with pytest.raises(pytest.fail.Exception):
            again(*more)

    planned("--set", "train.epochs=2")
    for change in (
        lambda patch: tiny_runs.labelled_file(shown),  # the same rows, written later
        lambda patch: shown.write_text(shown.read_text() + shown.read_text().splitlines()[0] + "\n"),
        lambda patch: (model / "added.json").write_text("{}"),
        lambda patch: (tmp_path / "rows" / "dev.jsonl").write_text('{"text": "the fox", "label": "fox"}\n'),
        lambda patch: (tmp_path / "own.py").write_text((tmp_path / "own.py").read_text() + "RANGE = (0, 2)\n"),
        lambda patch: patch.setattr(kept_plan, "free_memory_gib", lambda: (8, 12)),
        lambda patch: patch.setenv("TUNESMITH_MEMORY_GIB", "9"),
        lambda patch: patch.setattr(kept_plan, "MOST_AGE_S", 0.0),
    ):
        with monkeypatch.context() as patch, restored(tmp_path):
            change(patch)
            planned()
        assert "kept from" in again()
    tiny_runs.labelled_file(shown)
    typed(command)
    assert "kept from" in again()


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Its files are behind it as they were before, times included."""
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    yield
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path not in before:
            path.unlink()
        elif path.stat().st_mtime_ns != before[path][1]:
            path.write_bytes(before[path][0])
            os.utime(path, ns=(before[path][1],) * 2)


def test_a_mistake_of_a_process_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    """One by a real process; test_mistakes.py has the others."""
    done = tunesmith("run", "--data", "x.csv", "--set", "train.epoch=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean train.epochs" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_plan_audit_run_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is a process of its own."""
    monkeypatch.chdir(tmp_path)
    model = tiny_runs.model_folder(tmp_path / "model")
    tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    common = ["--model", str(model), "--data", "rows.jsonl", "--set", "data.max_tokens=256"]
    planned = json.loads(typed(["plan", *common, "--json"]).out)
    assert planned["task"] == "classify"
    assert planned["updates"] > 0
    assert "layout: forest" in typed(["plan", *common]).out
    assert "120 read = 120 accepted + 0 rejected" in typed(["audit", *common]).out
    fewer = ("evals.max_cases=8", "evals.guards=off", "evals.robustness=off", "train.max_updates=2", "export=[adapter]")
    small = [word for key in fewer for word in ("--set", key)]  # tests of their own ask probes
    done = tunesmith("run", *common, *small, "--out", "out", "--json", "--require-better", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["decision"] != "better"
    assert not (tmp_path / "out" / "merged").exists()
    before = (tmp_path / "out" / "report.html").read_bytes()
    assert typed(["report", "out"]).out.strip().endswith("report.html")
    assert (tmp_path / "out" / "report.html").read_bytes() == before
