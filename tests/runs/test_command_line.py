"""What a person types and sees: help, mistakes, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.runs import tiny_runs

COMMAND = [sys.executable, "-m", "tunesmith.cli.main"]


def tunesmith(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


def test_help_is_quick_and_needs_no_torch() -> None:
    began = time.monotonic()
    done = tunesmith("--help")
    assert done.returncode == 0
    assert "quickstart" in done.stdout
    assert time.monotonic() - began < 5  # 0.5 s on an idle machine; this one may be busy
    code = "import sys, tunesmith.cli.main; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


MISTAKES = {
    "no data": (["run"], "data.train names no file"),
    "unknown key": (["run", "--data", "x.csv", "--set", "train.epoch=1"], "did you mean train.epochs"),
    "bad value": (["run", "--data", "x.csv", "--set", "train.epochs=no"], "train.epochs is"),
    "no recipe": (["run", "nothing.yaml"], "is not there"),
    "half a --set": (["run", "--set", "train.epochs"], "wanted key=value"),
    "resume without out": (["run", "--data", "x.csv", "--resume"], "--resume needs --out"),
    "resume of nothing": (["run", "--resume", "--out", "none", "--data", "x.csv"], "no run to resume"),
    "unknown model": (["plan", "--model", "gpt-5", "--data", "x.csv"], "is not known"),
    "model without a folder": (["plan", "--model", "./no", "--data", "x.csv"], "no config.json"),
    "report of nothing": (["report", "."], "none of the files of a run"),
    "fetch of nothing": (["models", "fetch", "nothing"], "is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(mistake: str, tmp_path: Path) -> None:
    words, message = MISTAKES[mistake]
    done = tunesmith(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_data_mistakes_with_a_model_at_hand(tmp_path: Path) -> None:
    model = tiny_runs.model_folder(tmp_path / "model")
    (tmp_path / "odd.csv").write_text("colour,shape\nred,round\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 50)
    for name, message in (
        ("missing.jsonl", "no such file"),
        ("odd.csv", "'colour', 'shape'"),
        ("empty.jsonl", "empty"),
        ("binary.jsonl", "binary.jsonl"),
    ):
        done = tunesmith("plan", "--model", str(model), "--data", name, cwd=tmp_path)
        assert done.returncode == 2, (name, done.stderr)
        assert message in " ".join(done.stderr.split()), (name, done.stderr)
        assert "Traceback" not in done.stderr


def test_plan_audit_run_and_report(tmp_path: Path) -> None:
    model = tiny_runs.model_folder(tmp_path / "model")
    tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    common = ["--model", str(model), "--data", "rows.jsonl", "--set", "data.max_tokens=256"]
    planned = json.loads(tunesmith("plan", *common, "--json", cwd=tmp_path).stdout)
    assert planned["task"] == "classify"
    assert planned["updates"] > 0
    assert "layout: forest" in tunesmith("plan", *common, cwd=tmp_path).stdout
    assert "120 read = 120 accepted + 0 rejected" in tunesmith("audit", *common, cwd=tmp_path).stdout
    small = ["--set", "evals.max_cases=8", "--set", "train.max_updates=2", "--set", "export=[adapter]"]
    done = tunesmith("run", *common, *small, "--out", "out", "--json", "--require-better", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["decision"] != "better"
    assert not (tmp_path / "out" / "merged").exists()
    before = (tmp_path / "out" / "report.html").read_bytes()
    assert tunesmith("report", "out", cwd=tmp_path).stdout.strip().endswith("report.html")
    assert (tmp_path / "out" / "report.html").read_bytes() == before
