"""A run of several sources, with general rows on top: what its plan says of them is what it learned from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import tiny_runs
from tests.runs.test_methods_of_a_run import StopAfter, do

from tunesmith.errors import Interrupted


def test_a_mixed_run_says_its_shares_and_goes_on_as_it_was(tmp_path: Path) -> None:
    model = tiny_runs.model_folder(tmp_path / "model")
    words = tiny_runs.reply_file(tmp_path / "words.jsonl", 40)
    labels = tiny_runs.labelled_file(tmp_path / "labels.jsonl", 90)
    general = tiny_runs.written(
        tmp_path / "general.jsonl", [{"prompt": f"lazy {i}?", "completion": "quick brown fox"} for i in range(9)]
    )
    ways = [{"prompt": "Which? {text}"}, {"prompt": "{text}: what?"}]
    settings = tiny_runs.settings(model, words, max_updates=4, epochs=3)
    del settings["data"]["train"]
    settings["data"] |= {
        "sources": [
            {"files": [str(words)], "weight": 1, "shots": 1, "shots_frac": 0.5},
            {"files": [str(labels)], "weight": 3, "templates": ways},
        ],
        "mixing": {"rows": 40},
        "replay": {"files": [str(general)], "share": 0.2},
    }  # fmt: skip
    do(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "parts", StopAfter(3))
    do(settings, tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    plan = json.loads((tmp_path / "whole" / "plan.json").read_text())
    said = {r["key"]: r for r in plan["resolved"]}
    shares = [float(said[f"source {name}"]["value"].rstrip("%")) for name in ("words", "labels", "general")]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares[1] == pytest.approx(3 * shares[0], rel=0.6)  # four updates are few
    assert "0.2" in str(said["data.replay"]["value"])
    assert "% of the learned tokens" in said["source labels"]["why"]
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "source labels" in report
    lines = " ".join(json.loads((tmp_path / "whole" / "audit.json").read_text())["understood"]["notices"])
    assert "source words: reads prompt, completion" in lines
