"""Methods in whole runs: early stopping, means, the way back to the base, replay; a resume restores what each keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.runs import tiny_runs
from tests.runs.test_run import StopAfter

from tunesmith.deliver import deliver
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import Interrupted, PlanError, RecipeError
from tunesmith.folder import Silent
from tunesmith.opened import open_model, open_run
from tunesmith.recipe import parse
from tunesmith.run import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def do(settings: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> None:
    run(parse(settings), yaml.safe_dump(settings), out, tell or Silent(), resume=resume)


def asked(model: Path, folder: Path, **train: Any) -> dict[str, Any]:
    settings = tiny_runs.settings(model, tiny_runs.reply_file(folder / "rows.jsonl"), **train)
    settings["export"] = ["adapter"]
    settings["evals"] |= {"max_cases": 4, "few_shot": 0}
    return settings


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def test_training_ends_where_dev_gets_worse_and_the_best_weights_are_the_runs(model: Path, tmp_path: Path) -> None:
    """Of a rate that is much too high; the mutant, the last weights, differs."""
    settings = asked(model, tmp_path, epochs=8, lr=0.3, early_stop={"patience": 2, "every": 1}, watch=0)
    out = tmp_path / "out"
    do(settings, out)
    rows = rows_of(out)
    looks = [(r["update"], r["look"]) for r in rows if "look" in r]
    best = min(looks, key=lambda look: look[1])
    planned = json.loads((out / "plan.json").read_text())["updates"]
    assert looks[-1][0] == best[0] + 2 < planned
    assert max(r["update"] for r in rows) == looks[-1][0]
    kept, exported = load_file(out / "best" / "best.safetensors"), adapter(out)
    assert all(torch.equal(exported[f"base_model.model.{n}"], t) for n, t in kept.items())
    last = load_file(sorted((out / "checkpoints").glob("update_*"))[-1] / "state.safetensors")
    assert any(not torch.equal(last[f"masters.{n}"], t) for n, t in kept.items())


def test_a_stopped_run_goes_on_with_all_that_its_methods_keep(model: Path, tmp_path: Path) -> None:
    general = tiny_runs.written(
        tmp_path / "general.jsonl", [{"prompt": f"lazy {i}?", "completion": "quick brown fox"} for i in range(9)]
    )
    settings = asked(
        model, tmp_path, average={"ema": 0.7, "base_share": "auto"},
        early_stop={"patience": 9, "every": 2, "on": "score"},
        unfreeze_groups=2, by_depth=1.5, schedule={"kind": "wsd"},
    )  # fmt: skip
    settings["adapt"] |= {"dropout": 0.2}
    settings["regularise"] = {"mixout": 0.2, "l2sp": 0.1, "ewc": 100, "kl": 0.1, "neftune": 5, "rdrop": 1}
    teacher = tiny_runs.model_folder(tmp_path / "teacher", num_hidden_layers=1)
    settings["objective"] = {"smoothing": 0.1, "distil": {"teacher": str(teacher), "share": 0.5}}
    settings["data"] |= {"replay": {"files": [str(general)], "share": 0.2}}
    do(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "parts", StopAfter(3))
    do(settings, tmp_path / "parts", resume=True)
    whole, parts = adapter(tmp_path / "whole"), adapter(tmp_path / "parts")
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    chosen = json.loads((tmp_path / "whole" / "average.json").read_text())
    assert chosen == json.loads((tmp_path / "parts" / "average.json").read_text())
    tried = {r["base_share"]: r["dev_loss"] for r in chosen["tried"] if r["base_share"] < 1}
    assert tried[chosen["base_share"]] == min(tried.values())
    assert all(r["bits_per_byte"] > 0 for r in chosen["tried"])
    assert "Loss on dev against general text at 9 shares of the base" in (tmp_path / "whole/report.html").read_text()
    assert "## Nearer to the base" in (tmp_path / "whole/report.md").read_text()
    [words] = [
        r["why"]
        for r in json.loads((tmp_path / "whole" / "plan.json").read_text())["resolved"]
        if r["key"] == "data.replay"
    ]
    share = float(words.split(": ")[1].split("%")[0]) / 100
    assert share == pytest.approx(0.2, abs=0.02)
    assert {"distil_nats_per_token", "kl_nats_per_token", "rdrop_nats_per_token"} <= rows_of(tmp_path / "whole")[
        1
    ].keys()


def test_a_method_of_peft_runs_through_and_opens_again(model: Path, tmp_path: Path) -> None:
    """Rehearsed, stopped, gone on with, opened by plain peft, merged, and opened as a run."""
    settings = asked(model, tmp_path, rehearsal=True, lr=0.05)
    settings["adapt"] = {"method": "peft", "peft": "loha", "options": {"r": 2, "alpha": 4}}
    settings["export"] = ["adapter", "merged"]
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "out", StopAfter(3))
    do(settings, tmp_path / "out", resume=True)
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["adapter"]["same_text"]
    assert facts["merged"]["same_text"]
    opened = open_run(tmp_path / "out")
    tuned = opened.who("tuned")
    assert isinstance(tuned, Snapshot)
    stored = adapter(tmp_path / "out")
    assert all(torch.equal(stored[f"base_model.model.{n}"], t) for n, t in tuned.values.items())
    assert any(bool(t.any()) for n, t in tuned.values.items() if "w2_a" in n or "w1_a" in n)


def test_a_base_in_4_bits_runs_through_and_opens_again(model: Path, tmp_path: Path) -> None:
    """Rehearsed, stopped, gone on with to the same bits; what is compared with is the base as it is."""
    settings = asked(model, tmp_path, rehearsal=True, lr=0.05)
    settings["adapt"] |= {"base_bits": 4}
    settings["regularise"] = {"kl": 0.1}
    settings["export"] = ["adapter", "merged"]
    do(settings, tmp_path / "whole")
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "out", StopAfter(3))
    do(settings, tmp_path / "out", resume=True)
    assert all(torch.equal(t, adapter(tmp_path / "whole")[n]) for n, t in adapter(tmp_path / "out").items())
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["adapter"]["same_text"]
    assert facts["merged"]["same_text"]
    assert facts["adapter"]["logit_diff"] < 1e-4 < 1e-3 < facts["adapter"]["whole_base_diff"]
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert any("held in fewer bits" in note for note in verdict["notes"])
    resolved = {r["key"]: r for r in json.loads((tmp_path / "out" / "plan.json").read_text())["resolved"]}
    assert resolved["adapt.base_bits"]["value"] == 4
    assert "under the adapter" in resolved["adapt.base_bits"]["why"]
    opened, plain = open_run(tmp_path / "out"), open_model(str(model))
    prompt = [4, 5, 6, 7]
    assert torch.equal(opened.session.next_logits(None, prompt), plain.session.next_logits(None, prompt))
    tuned = opened.session.next_logits(opened.who("tuned"), prompt)
    assert not torch.equal(tuned, plain.session.next_logits(None, prompt))
    found = deliver(tmp_path / "out", "adapter", tmp_path / "elsewhere", "f16", Silent())
    assert found["peft"]["logit_diff"] < 1e-4 < found["peft"]["whole_base_diff"]


def test_rows_that_cannot_be_used_are_told_whatever_they_were_for(model: Path, tmp_path: Path) -> None:
    """Also where nothing is replayed, and general rows are there for EWC alone."""
    rows = [{"prompt": "lazy?", "completion": ""}] + [{"prompt": f"lazy {i}?", "completion": "fox"} for i in range(3)]
    general, other = (tiny_runs.written(tmp_path / name, rows) for name in ("general.jsonl", "other.jsonl"))
    settings = asked(model, tmp_path, max_updates=2, watch=0)
    settings["data"] |= {"replay": {"files": [str(general)], "share": 0}, "ood": [str(other)]}
    settings["regularise"] = {"ewc": 1}
    with pytest.raises(Interrupted):
        do(settings, tmp_path / "out", StopAfter(1))
    resolved = {r["key"]: r["why"] for r in json.loads((tmp_path / "out" / "plan.json").read_text())["resolved"]}
    assert resolved["data.replay"].startswith("0 of 3 general rows: ")
    assert resolved["data.replay"].endswith("; 1 rows could not be read")
    told = (tmp_path / "out" / "rejected.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in told] == [f"{other}:1", f"{general}:1"]


REFUSED = {
    "other dropout masks": {"regularise": {"rdrop": 1}},
    "have no labels": {"objective": {"contrastive": 0.5}},
    "opposite ways": {"objective": {"smoothing": 0.1, "focal": 2}},
    "two means": {"train": {"average": {"ema": 0.9, "last": 2}}},
    "counts from the end": {"train": {"average": {"last": 2}, "early_stop": {"patience": 2}}},
    "whose weights train.early_stop would still keep": {"train": {"on_nan": "rollback", "early_stop": {"patience": 2}}},
    "there is none": {"train": {"early_stop": {"patience": 2}}, "data": {"dev_frac": 0.0}},
    "compile them each time": {"regularise": {"mixout": 0.1}, "train": {"compile": True}},
    "more trains each epoch": {"train": {"unfreeze_groups": 5}},
    "not all that changes": {"regularise": {"l2sp": 0.1}, "adapt": {"dora": True}},
    "known to it alone": {"regularise": {"ewc": 1}, "adapt": {"method": "ia3"}},
    "and one is computed": {"objective": {"contrastive": 0.5, "distil": {"teacher": "MODEL", "share": 0.5}}},
    "cannot merge": {"adapt": {"method": "peft", "peft": "beft"}, "export": ["adapter", "merged"]},
    "adapt.rank is read by adapt.method lora, and it is full: leave": {"adapt": {"method": "full"}},
    "adapt.alpha is read by adapt.method lora": {"adapt": {"method": "last_k", "rank": 16, "alpha": 8}},
    "adapt.dropout is read by adapt.method lora": {"adapt": {"method": "full", "rank": 16, "dropout": 0.1}},
    "adapt.dora is read by adapt.method lora": {"adapt": {"method": "last_k", "rank": 16, "dora": True}},
    "adapt.last_k is read by adapt.method last_k": {"adapt": {"last_k": 1}},
    "adapt.peft is read by adapt.method peft": {"adapt": {"peft": "loha"}},
    "adapt.options is read by adapt.method ia3 or peft": {"adapt": {"options": {"r": 2}}},
    "adapt.names is read by adapt.method named": {"adapt": {"names": ["*norm*"]}},
    "adapt.targets is read by": {"adapt": {"method": "full", "rank": 16, "targets": ["q_proj"]}},
    "in a way of its own": {"adapt": {"method": "peft", "peft": "multitask_prompt_tuning"}},
    "no weight to have one": {"regularise": {"ewc": 1}, "adapt": {"base_bits": 4}},
    "which with adapt.base_bits are rounded": {"train": {"average": {"base_share": 0.2}}, "adapt": {"base_bits": 4}},
    "make their weights anew": {"train": {"compile": True}, "adapt": {"base_bits": 4}},
    "its own twin": {"objective": {"contrastive": 0.5}, "regularise": {"rdrop": 1}, "adapt": {"dropout": 0.1}},
}


def test_what_cannot_work_is_refused_before_anything_is_trained(model: Path, tmp_path: Path) -> None:
    labelled = tiny_runs.labelled_file(tmp_path / "labels.jsonl")
    for message, part in REFUSED.items():
        settings = asked(model, tmp_path)
        if "twin" in message or "one is computed" in message:
            settings["data"]["train"] = [str(labelled)]
        for group, keys in part.items():
            settings[group] = settings.get(group, {}) | keys if isinstance(keys, dict) else keys
        if "distil" in settings.get("objective", {}):
            settings["objective"]["distil"]["teacher"] = str(model)
        with pytest.raises(PlanError, match=message):
            do(settings, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("group", "keys"),
    [
        ("regularise", {"mixout": 1.0}), ("regularise", {"l2sp": -1}), ("objective", {"focal": 0.5}),
        ("objective", {"contrastive": 1.0}), ("objective", {"temperature": 0}), ("train", {"by_depth": 0}),
        ("train", {"average": {"ema": 1.0}}), ("data", {"replay": {"share": 1.0}}), ("train", {"unfreeze_groups": -1}),
    ],
)  # fmt: skip
def test_strengths_that_are_no_strengths(group: str, keys: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(keys))):
        parse({group: keys})
