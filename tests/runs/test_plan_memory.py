"""The peak memory that the plan says is what a run takes, in a process of its own. More: bench/plan_accuracy.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs

from tunesmith.build import compute, load_base, material
from tunesmith.fitted import fit
from tunesmith.models.here import MEMORY
from tunesmith.recipe import parse

SHAPE = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6}
RUN = """
import sys
from tunesmith.cli.main import app
from tunesmith.folder import peak_gib
app(sys.argv[1:], standalone_mode=False)
print(peak_gib())
"""


def settings_of(folder: Path, **train: Any) -> dict[str, Any]:
    """Rows of some 400 tokens, two updates of one micro-batch each."""
    rows = [
        {"prompt": f"{i}: {'quick brown fox jumps over the lazy dog ' * 10}", "completion": "the dog"}
        for i in range(40)
    ]
    data = tiny_runs.written(folder / "rows.jsonl", rows)
    settings = tiny_runs.settings(tiny_runs.model_folder(folder / "model", **SHAPE), data, max_updates=2, watch=0)
    settings["train"] |= {"update_tokens": 4096, "micro_tokens": 2048, **train}
    settings["data"]["max_tokens"] = 2048
    return settings


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back by glibc's allocator")
@pytest.mark.parametrize("freed", ["trimmed", "returned"])
def test_a_run_takes_what_the_plan_says(tmp_path: Path, freed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as little memory as lets freed memory be kept, and with the least."""
    settings = settings_of(tmp_path, checkpointing="off")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    recipe = parse(settings)
    where = compute(recipe)
    base = load_base(recipe, where)
    made = material(recipe, base)

    def needed(free: float) -> float:
        monkeypatch.setenv(MEMORY, str(free))
        found = fit(recipe, base, made, where).footprint
        assert found is not None
        return found.above_gib

    limit = 1.001 * needed(1000)
    if freed == "returned":
        limit = 1.001 * needed(0.999 * needed(limit))
    words = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        env={**os.environ, MEMORY: str(limit)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = float(done.stdout.splitlines()[-1])
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())["memory"]
    assert planned["freed"] == freed
    print(f"{planned['peak_gib']:.3f} GiB said, {measured:.3f} taken")
    assert planned["peak_gib"] == pytest.approx(measured, rel=0.1)
