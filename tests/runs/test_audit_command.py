"""`tunesmith audit`: what it prints and writes of a file with faults, and its mended copy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from typer.testing import CliRunner

from tunesmith.cli.main import app

TOKEN = "ghp_" + "a1" * 12


def rows() -> list[dict[str, str]]:
    made = [{"prompt": f"where is the {w} number {k}?", "completion": f"the {w} is there"}
            for k, w in enumerate(tiny_runs.WORDS * 6)]  # fmt: skip
    made += [
        made[0],
        {"prompt": "what is the key?", "completion": f"it is {TOKEN}"},
        {"prompt": "so?", "completion": "-"},
    ]
    return made


def test_audit_writes_what_it_found_and_a_mended_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_runs.model_folder(tmp_path / "model")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    words = ["audit", "--model", str(model), "--data", "rows.jsonl", "--set", "data.max_tokens=256"]
    Path("asked.jsonl").write_text("".join(json.dumps({"prompt": f"refund me {k}"}) + "\n" for k in range(60)))
    more = ["--out", "found", "--fix", "mended", "--inputs", "asked.jsonl"]
    done = CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
    assert done.exit_code == 0
    num = len(rows())
    assert f"1 of {num} rows are identical to an earlier one" in done.output
    assert f"mended     {num} rows read = {num - 2} written (1 masked, 0 cut) + 2 dropped + 0 left out" in done.output
    kept = json.loads(Path("found/audit.json").read_text())
    longest, context = kept["tokens"]["length_quantiles"]["1"], kept["tokens"]["context_tokens"]
    assert (
        f"longest {longest:,} tokens, of 256 that data.max_tokens lets in; the model reads {context:,}" in done.output
    )
    assert f"up to 256 are let in, and the model reads {context:,}" in Path("found/audit.html").read_text()
    assert kept["alike"]["inputs"]["low"] > 0.9
    assert "training and inputs: a small model that has not seen them tells 100% right" in done.output
    assert {"exact_duplicates", "empty_replies", "api_token", "target_shift"} <= {
        one["kind"] for one in kept["findings"]
    }
    assert sum(kept["tokens"]["histogram"]["counts"]) == kept["splits"]["train"]
    said = {one["kind"]: one["command"] for one in kept["findings"]}
    given = f"--model {model} --data rows.jsonl --set data.max_tokens=256"
    assert said["exact_duplicates"] == f"tunesmith audit {given} --fix mended"
    assert said["target_shift"].startswith(f"tunesmith ask asked.jsonl --model {model} --by diversity")
    assert said["exact_duplicates"] in done.output
    page = Path("found/audit.html").read_text()
    assert "rows.jsonl:" in page
    assert TOKEN not in page + done.output + json.dumps(kept["findings"])
    assert len(Path("mended/rows.jsonl").read_text().splitlines()) == num - 2
    again = CliRunner().invoke(app, [*words[:4], "mended/rows.jsonl", *words[5:], "--json"], catch_exceptions=False)
    kinds = {one["kind"] for one in json.loads(again.stdout)["findings"]}
    assert not kinds & {"exact_duplicates", "empty_replies", "api_token"}


def test_a_folder_that_is_taken_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("taken/rows.jsonl").write_text("{}")
    for words in (["--fix", "taken"], ["--out", "taken/rows.jsonl"]):
        said = typed(["audit", "--model", "nowhere", "--data", "missing.jsonl", *words])
        assert (said.code, "is there already" in said.err) == (2, True), said.text
