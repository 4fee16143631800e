"""`tunesmith import`, `runs` and `compare` as typed: what is printed, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.unit.report import run_folders
from typer.testing import CliRunner, Result

from tunesmith.cli.main import app
from tunesmith.errors import InputError
from tunesmith.recipe import parse

THEIRS = "base_model: acme/small\nsequence_len: 64\nlearning_rate: 1e-4\nfsdp: full_shard\nodd: 1\n"


def typed(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def test_import_prints_or_writes_a_recipe(tmp_path: Path) -> None:
    file, out = tmp_path / "a.yml", tmp_path / "r.yaml"
    file.write_text(THEIRS)
    shown = typed("import", file)
    assert shown.exit_code == 0
    assert parse(yaml.safe_load(shown.stdout)).train.lr == 1e-4  # a program may read standard output
    assert "fsdp" in shown.stderr
    facts = json.loads(typed("import", file, "--json").stdout)
    assert [k["fate"] for k in facts["keys"]] == ["same", "meant", "same", "absent", "unknown"]
    assert typed("import", file, "--out", out).exit_code == 0
    assert yaml.safe_load(out.read_text()) == facts["recipe"]
    again = typed("import", file, "--out", out)
    assert isinstance(again.exception, InputError)
    assert typed("import", file, "--from", "ludwig").exception.exit_code == 2  # type: ignore[union-attr]


def test_runs_and_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = run_folders.make(Path("runs/one")), run_folders.make(Path("runs/two"))
    shown = typed("runs")
    assert all(word in shown.stdout for word in ("one", "two", "better", "accuracy +0.300"))
    assert {Path(r["folder"]).name for r in json.loads(typed("runs", "--json").stdout)} == {"one", "two"}
    assert "compare wants two" in str(typed("compare", one).exception)
    found = typed("compare", one, two, "--out", "both.json")
    assert "10 held-out cases that all runs share" in found.stdout
    kept = json.loads(Path("both.json").read_text())
    assert kept == json.loads(typed("compare", one, two, "--json").stdout)
    assert kept["cases"][0]["outputs"] == {"A": "delivery", "B": "delivery"}
    Path("none").mkdir()
    assert "no runs under none" in typed("runs", "none").stdout
