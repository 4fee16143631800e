"""Encoders that go on with pre-training: whole runs from plain texts to a verdict, and what becomes of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests import encoders
from tests.laws.test_masking import own_nats
from tests.laws.test_spans import own_nats as nats_of_spans
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.runs.test_pretrain import documents
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tunesmith import heritage
from tunesmith.build import Material, compute, load_base, material
from tunesmith.data.denoised import MaskedText, SpanText
from tunesmith.deliver import deliver
from tunesmith.errors import InputError, Interrupted, PlanError
from tunesmith.folder import Silent
from tunesmith.models.load import load
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Example, Message, Reply
from tunesmith.verified import verify


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    found = tiny_runs.settings(folder / "model", folder / "book.txt", max_updates=3)
    found |= {
        "task": {"name": "pretrain"},
        "precision": "float32",
    }  # held against plain transformers to the last digits
    found["data"] |= {"max_tokens": 512, "reading": {"separator": "\n\n"}}  # more than the model reads
    found["train"]["rehearsal"] = True
    found["evals"] |= {"guards": "full", "explain_cases": 2, "robustness": "quick", "few_shot": 4}
    del found["evals"]["max_new_tokens"]  # an encoder writes nothing
    for key, value in changes.items():
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


def start(folder: Path, name: str, tell: Any = None, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    said = settings(folder, **changes)
    return run(parse(said), yaml.safe_dump(said), folder / name, tell or Silent(), resume=resume)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    encoders.masked(folder / "model", "roberta")
    documents(folder / "book.txt")
    start(folder, "run", train={"epochs": 4, "max_updates": None, "lr": 0.01, "update_tokens": 128})
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def bits(folder: Path, texts: list[str]) -> float:
    """Per byte, each token hidden in turn, under a folder that transformers opens by itself."""
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    plain = MaskedText(words, 64, len(words), 0).plain
    records = [r for t in texts for r in plain.scored(Example("e", (), Reply(Message("assistant", t))))]
    total = own_nats(model, records) / float(torch.log(torch.tensor(2.0)))
    return total / sum(len(t.encode()) for t in texts)


def test_the_verdict_is_about_tokens_told_from_the_text_around_them(world: Path) -> None:
    out = world / "run"
    verdict = read(out / "verdict.json")
    assert (verdict["task"], verdict["metric"], verdict["less_is_better"]) == ("pretrain", "bits_per_byte", True)
    texts = [row["reference"] for row in pq.read_table(out / "scores" / "cases.parquet").to_pylist()]
    assert verdict["base"] == pytest.approx(bits(world / "model", texts), rel=1e-5)
    assert verdict["tuned"] == pytest.approx(bits(out / "merged", texts), rel=1e-4)
    assert verdict["tuned"] < 0.95 * verdict["base"]
    assert any("not those of a model that writes on" in note for note in verdict["notes"])
    plan = {row["key"]: row for row in read(out / "plan.json")["resolved"]}
    assert plan["layout"]["value"] == "masked"
    assert "15% of the tokens are hidden, others in each epoch" in plan["pieces"]["why"]
    assert "every seventh hidden at a time" in plan["scoring"]["why"]
    assert "writes no text" in plan["not asked"]["why"]
    assert read(out / "rehearsal.json")["total_s"] > 0


def test_exports_open_in_plain_transformers_and_say_so(world: Path, tmp_path: Path) -> None:
    found = read(world / "run" / "export.json")
    assert found["adapter"]["logit_diff"] < 1e-5
    assert found["merged"]["logit_diff"] < 1e-4
    assert found["adapter"]["num_prompts"] == 8
    assert read(world / "run" / "adapter" / "adapter_config.json")["task_type"] is None
    assert AutoTokenizer.from_pretrained(world / "run" / "merged").model_max_length == 64
    card = (world / "run" / "merged" / "README.md").read_text()
    assert "AutoModelForMaskedLM" in card
    assert "pipeline_tag: fill-mask" in card
    facts = deliver(world / "run", "merged", tmp_path / "merged", "f16", Silent())
    assert facts["transformers"]["same_text"]
    with pytest.raises(InputError, match="tells hidden tokens"):
        deliver(world / "run", "gguf", tmp_path / "gguf", "f16", Silent())


def test_it_goes_on_where_it_was_stopped_with_all_weights(world: Path) -> None:
    class Stops(Silent):
        def updated(self, update: int, of: int, row: Any) -> None:
            if update == 3:
                raise Interrupted("stopped by the test")

    changes: dict[str, Any] = {
        "adapt": {"method": "full", "rank": 16},
        "train": {"epochs": 3, "max_updates": 5, "update_tokens": 128, "rehearsal": False},
        "evals": {"max_cases": 4},
    }
    whole = start(world, "whole", **changes)
    with pytest.raises(Interrupted):
        start(world, "stopped", Stops(), **changes)
    again = start(world, "stopped", resume=True, **changes)
    assert again["digests"] == whole["digests"]
    assert (again["base"], again["tuned"]) == (whole["base"], whole["tuned"])
    assert [(c.name, c.found) for c in verify(world / "whole") if c.passed is False] == []


def test_what_became_of_it_opens_with_a_class_head(world: Path) -> None:
    base, merged = load(str(world / "run" / "merged")), AutoModelForMaskedLM.from_pretrained(world / "run" / "merged")
    assert base.by_head
    assert base.fresh
    there = base.model.base_model.state_dict()
    assert all(torch.equal(there[name], tensor) for name, tensor in merged.base_model.state_dict().items())


def going_on(parent: Path, data: Path, **changes: Any) -> Material:
    said = {"parent": {"run": str(parent)}, "data": {"train": [str(data)]}, **changes}
    recipe, _ = heritage.settled(parse(said), yaml.safe_dump(said))
    return material(recipe, load_base(recipe, compute(recipe)))


def test_no_run_goes_on_from_it_yet(world: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--from.* hidden tokens .*--model .*run/merged without --from"):
        going_on(world / "run", world / "book.txt")
    rows = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    with pytest.raises(PlanError, match=r"task\.name classify, and in .*run they were labels and pretrain"):
        going_on(world / "run", rows, task={"name": "classify"})


def test_a_command_that_wants_a_text_says_why_not(world: Path) -> None:
    found = typed(["chat", str(world / "run"), "--once", "dog"])
    assert found.code == 2, found.text
    assert "answers nothing" in " ".join(found.text.split())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"replay": {"files": ["{replies}"]}}}, "general texts that are written"),
        ({"task": {"by": "head"}}, "leave task.by out"),
        ({"task": {"name": "auto"}}, "say --set task.name=pretrain"),
        ({"regularise": {"neftune": 5.0}}, "needs the masked one"),
    ],
)
def test_what_does_not_go_together_is_refused(world: Path, changes: dict[str, Any], says: str) -> None:
    replies = str(tiny_runs.reply_file(world / "replies.jsonl", 9))
    changes = json.loads(json.dumps(changes).replace("{replies}", replies))
    with pytest.raises((PlanError, InputError), match=says):
        start(world, "refused", **changes)
    assert not (world / "refused").exists()


# -- encoder-decoders -------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_goes_on_by_span_corruption(world: Path) -> None:
    tiny_runs.model_folder(world / "t5", "t5")
    changes: dict[str, Any] = {
        "model": str(world / "t5"), "train": {"update_tokens": 256, "max_updates": 4, "lr": 0.01, "rehearsal": False},
        "evals": {"guards": "off", "max_cases": 5, "max_new_tokens": 6}, "data": {"max_tokens": 64},
        "adapt": {"rank": 8},
    }  # fmt: skip
    verdict = start(world, "run_t5", **changes)
    assert verdict["metric"] == "bits_per_byte"
    rows = pq.read_table(world / "run_t5" / "scores" / "cases.parquet").to_pylist()
    for folder, who in ((world / "t5", "base"), (world / "run_t5" / "merged", "tuned")):
        base = load(str(folder))
        plain, total = SpanText(base.tokenizer, 64, "drop", 0).plain, 0.0
        for row in rows:
            text = Example("e", (), Reply(Message("assistant", row["reference"])))
            total += nats_of_spans(base.model, plain.scored(text))
        num = sum(len(row["reference"].encode()) for row in rows)
        assert verdict[who] == pytest.approx(total / float(torch.log(torch.tensor(2.0))) / num, rel=1e-4)
    plan = {row["key"]: row for row in read(world / "run_t5" / "plan.json")["resolved"]}
    assert "sentinels stand for them" in plan["pieces"]["why"]
    with pytest.raises(PlanError, match=r"say --set task\.name=pretrain"):
        start(world, "refused", **changes, task={"name": "auto"})
    with pytest.raises(PlanError, match=r"--from.* hidden tokens .*--model .*run_t5/merged without --from"):
        going_on(world / "run_t5", world / "book.txt")
