"""The whole job on a tiny model: what a run leaves behind, that it is what was measured, that a resume is the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from tests.runs import tiny_runs
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import exported
from tunesmith.errors import InputError, Interrupted, ModelError, PlanError, RunError
from tunesmith.folder import Silent
from tunesmith.models.artifact import read_adapter
from tunesmith.models.load import weights_digest
from tunesmith.recipe import parse
from tunesmith.run import run

LEFT_BEHIND = (
    "recipe.yaml", "plan.json", "lock.json", "audit.json", "ledger.json", "metrics.jsonl", "verdict.json", "cost.json",
    "export.json", "scores/cases.parquet", "scores/forms.json", "report.html", "report.md",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> dict[str, Any]:
    return run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


def test_a_classification_leaves_everything_behind(model: Path, tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    out = tmp_path / "out"
    verdict = do(tiny_runs.settings(model, data), out)
    assert [name for name in LEFT_BEHIND if not (out / name).is_file()] == []
    assert verdict == json.loads((out / "verdict.json").read_text())
    assert verdict["task"] == "classify"
    assert verdict["num_cases"] == 20
    assert set(verdict["baselines"]) == {"majority answer", "TF-IDF + logistic regression"}
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert sum(r["tuned_score"] for r in rows) / len(rows) == pytest.approx(verdict["tuned"])
    assert sum(r["base_score"] for r in rows) / len(rows) == pytest.approx(verdict["base"])
    assert all(0 < r["tuned_probability"] <= 1 for r in rows)
    assert {r["reference"] for r in rows} == {"fox", "dog", "clips"}
    assert verdict["decision"] in (out / "report.md").read_text().lower()
    ledger = json.loads((out / "ledger.json").read_text())["splits"]
    assert {ledger[r["split_key"]] for r in rows} == {"test"}
    exported = json.loads((out / "export.json").read_text())
    assert exported["adapter"]["same_text"]
    assert exported["merged"]["logit_diff"] < 1e-3


def test_exports_serve_what_was_trained(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    do(tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl")), out)
    tokenizer = AutoTokenizer.from_pretrained(out / "merged")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model).chat_template
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert tokenizer.eos_token_id in merged.generation_config.eos_token_id
    base = AutoModelForCausalLM.from_pretrained(model)
    tokens = torch.tensor([[5, 6, 7]])
    assert not torch.allclose(merged(tokens).logits, base(tokens).logits)
    digest = weights_digest(model)
    adapt, values = read_adapter(out / "adapter", digest)
    assert adapt.rank == 4
    assert any(float(t.abs().max()) > 0 for n, t in values.items() if ".lora_B" in n)
    with pytest.raises(ModelError, match="made on a base with digest"):
        read_adapter(out / "adapter", "0" * 64)
    assert read_adapter(out / "adapter", "0" * 64, insist=True)[0] == adapt
    assert digest in (out / "adapter" / "tunesmith.json").read_text()
    assert (out / "merged" / "README.md").is_file()


@pytest.mark.parametrize("adapt", [{"method": "full"}, {"method": "last_k", "last_k": 1}], ids=["full", "last_k"])
def test_weights_of_the_model_itself(model: Path, tmp_path: Path, adapt: dict[str, Any]) -> None:
    settings = tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"))
    settings |= {
        "adapt": adapt,
        "precision": "float32",
    }  # in 16 bits a whole model is written as it was measured: rounded
    do(settings, tmp_path / "out")
    tuned = load_file(tmp_path / "out" / "model" / "model.safetensors")
    base = load_file(model / "model.safetensors")
    moved = {n for n in base if not torch.equal(base[n], tuned[n])}
    expected = (
        set(base) if adapt["method"] == "full" else {n for n in base if "layers.1." in n or n == "model.norm.weight"}
    )
    assert moved == expected


class StopAfter(Silent):
    """Sends this process the signal of Ctrl-C after some update."""

    def __init__(self, update: int) -> None:
        self.update = update

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        if update == self.update:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_run_resumes_to_the_same_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    settings = tiny_runs.settings(model, data)
    settings["adapt"]["dropout"] = 0.2
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "machine"))
    do(settings, tmp_path / "whole")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "another machine"))  # where nobody has seen the test set
    with pytest.raises(Interrupted, match="--resume"):
        do(settings, tmp_path / "cut", StopAfter(3))
    done = len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines())
    do(settings, tmp_path / "cut", resume=True)
    rows = [json.loads(x) for x in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert 2 <= done < len(rows)
    updates = [r["update"] for r in rows if "loss" in r]
    assert updates == list(range(1, updates[-1] + 1))
    one, other = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(one[n], other[n]) for n in one)
    verdicts = [json.loads((tmp_path / n / "verdict.json").read_text()) for n in ("whole", "cut")]
    assert {**verdicts[0], "run": ""} == {**verdicts[1], "run": ""}
    assert verdicts[1]["openings"] == []
    again = do(settings, tmp_path / "again")  # this one comes after a look; the resume before it was none
    assert [o["run"] for o in again["openings"]] == ["cut"]
    assert "opened once before on this machine" in again["notes"][0]


def test_a_resume_with_other_data_is_refused(model: Path, tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    settings = tiny_runs.settings(model, data)
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "out", StopAfter(2))
    tiny_runs.reply_file(data, num=95)
    with pytest.raises(InputError, match="data"):
        do(settings, tmp_path / "out", resume=True)


def test_folders_that_are_taken(model: Path, tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(InputError, match="not empty"):
        do(tiny_runs.settings(model, data), tmp_path / "full")
    with pytest.raises(InputError, match="no run to resume"):
        do(tiny_runs.settings(model, data), tmp_path / "none", resume=True)
    with pytest.raises(InputError, match="is a file"):
        do(tiny_runs.settings(model, data), data)


def test_plans_that_cannot_work(model: Path, tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    settings = tiny_runs.settings(model, data)
    with pytest.raises(PlanError, match="max_tokens is 4096"):
        do(settings | {"data": settings["data"] | {"max_tokens": 4096}}, tmp_path / "a")
    with pytest.raises(PlanError, match="last_k is 9"):
        do(settings | {"adapt": {"method": "last_k", "last_k": 9}}, tmp_path / "b")
    with pytest.raises(ModelError, match=r"no config\.json"):
        do(settings | {"model": str(tmp_path)}, tmp_path / "c")
    with pytest.raises(ModelError, match="is not known"):
        do(settings | {"model": "gpt-5"}, tmp_path / "d")


def test_a_padded_model_runs_too(tmp_path: Path) -> None:
    model = tiny_runs.model_folder(tmp_path / "bloom", "bloom")
    settings = tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"))
    verdict = do(settings, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["layout"]["layout"] == "padded"
    assert verdict["num_cases"] == 13


def test_an_adapter_of_sixteen_bits_is_compared_in_sixteen_bits(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained and measured is what opens, bit for bit. The mutant opens it as peft does by itself, in float32:
    on SmolLM2-135M that moves the logits by 3% of their spread, which would hide a wrong adapter."""
    settings = {**tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"), lr=0.05),
                "precision": "bfloat16", "export": ["adapter", "merged"]}  # fmt: skip
    do(settings, tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "export.json").read_text())
    assert exported["adapter"]["logit_diff"] == 0.0
    assert 0.0 < exported["merged"]["logit_diff"] < 0.1
    plain = PeftModel.from_pretrained
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda base, path, **_: plain(base, path))
    do(settings, tmp_path / "mutant")
    assert json.loads((tmp_path / "mutant" / "export.json").read_text())["adapter"]["logit_diff"] > 0.0


def test_an_export_that_is_not_the_model_measured_fails_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the export check: an adapter that loads, but without what was learned."""
    opened = exported.open_adapter

    def forgetful(base: Path, adapter: Path, dtype: torch.dtype) -> Any:
        found = opened(base, adapter, dtype)
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
        return found

    monkeypatch.setattr(exported, "open_adapter", forgetful)
    with pytest.raises(RunError, match="is not the model that was measured"):
        do(tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"), lr=0.05), tmp_path / "out")
