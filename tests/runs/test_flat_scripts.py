"""The flat scripts of examples/ run from end to end on a tiny model, and a second start goes on to the same bits."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from tests.house.source import ROOT
from tests.runs import tiny_runs
from transformers import AutoModelForCausalLM

from tunesmith.engine.checkpoint import checkpoint_name
from tunesmith.evals.compare import BETTER, SAME, UNKNOWN, WORSE
from tunesmith.files import tensors_digest
from tunesmith.types import Attempt, Grade


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def letters(attempts: Sequence[Attempt]) -> list[Grade]:
    return [Grade(sum(c.isalpha() for c in a.text) / max(1, len(a.text))) for a in attempts]


def weights(out: Path) -> str:
    return tensors_digest(sorted(load_file(out / "adapter" / "adapter_model.safetensors").items()))


@pytest.mark.parametrize("name", ["flat_grpo", "flat_sft"])
def test_a_script_runs_and_goes_on(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = script(name), tmp_path / "out"
    monkeypatch.setattr(made, "EVERY", 1)
    if name == "flat_grpo":
        monkeypatch.setattr(made, "NUM_TEST", 12)
        monkeypatch.setattr(made, "reward", letters)  # a random model finds no sum
        more, last = ["3"], 3
    else:
        more, last = [str(tiny_runs.reply_file(tmp_path / "rows.jsonl", num=60)), "2"], 2
    assert made.main(str(model), str(out), *more) in (BETTER, SAME, WORSE, UNKNOWN)
    said = capsys.readouterr().out
    assert "update 1" in said
    first = weights(out)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(out / "adapter"))
    assert (out / "checkpoints" / checkpoint_name(last)).is_dir()
    shutil.rmtree(out / "checkpoints" / checkpoint_name(last))
    made.main(str(model), str(out), *more)
    assert weights(out) == first
    if name == "flat_grpo":
        assert "reward" in said
        assert sorted(p.name for p in (out / "rollouts").iterdir()) == [f"update_{n:07d}.parquet" for n in (1, 2, 3)]
    else:
        shutil.rmtree(out)
        made.main(str(model), str(out), more[0], "3")  # the mutant: another run
        assert weights(out) != first
