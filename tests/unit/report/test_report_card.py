"""report.md and the model card say what the files say, and no text of a user becomes markup in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from tests.unit.report.run_folders import BASELINE_ONLY, LOCK, PLAN, VERDICT, make
from tests.unit.report.test_report_page import NASTY, nasty_run

from tunesmith.errors import DataError
from tunesmith.report import card


def model_card(run: Path, config: str = "adapter_config.json", peft_type: str = "LORA") -> str:
    folder = run / "out"
    folder.mkdir(exist_ok=True)
    (folder / config).write_text(json.dumps({"peft_type": peft_type}))
    return card.write_model_card(run, folder).read_text(encoding="utf-8")


def front(text: str) -> dict[str, object]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_markdown_has_the_facts(tmp_path: Path) -> None:
    text = card.write_report(make(tmp_path)).read_text(encoding="utf-8")
    for line in (
        "**Yes, it is better.** Of 10 cases that were kept out of training, the base model got 4 right and the tuned",
        "- accuracy: 0.400 → 0.700, a difference of +0.300 (95% interval +0.062 to +0.512).",
        "- 1 case that the base had right is now wrong.",
        "| Tuned model | 0.700 | 0.390 to 0.890 |",
        "| majority (no language model) | 0.300 | – |",
        "| macro-F1 | 0.381 | 0.655 | +0.274 | +0.010 to +0.500 |",
        "| few-shot | 0.440 | 16 | chosen |",
        "- Fixed: the base was wrong, the tuned model is right: 4",
        "- rows read: 105, accepted: 101",
        "    - inbox.csv:17 · no label",
        "| train | 2 min 10 s | 1 min 30 s |",
        "    lr: auto",
    ):
        assert line in text, line


def test_markdown_of_a_baseline_alone(tmp_path: Path) -> None:
    text = card.write_report(make(tmp_path, verdict=None, without=BASELINE_ONLY)).read_text(encoding="utf-8")
    assert "**Not compared yet.**" in text
    assert "- `verdict.json`: this report cannot say whether the tuned model is better" in text
    assert "Tuned model" not in text


def test_front_matter_of_an_adapter_and_of_a_whole_model(tmp_path: Path) -> None:
    meta = front(model_card(make(tmp_path / "a")))
    assert meta == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "license": "apache-2.0",
        "library_name": "peft",
        "base_model_relation": "adapter",
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", "fine-tuned", "lora", "classify"],
        "model-index": [
            {
                "name": "tiny",
                "results": [
                    {
                        "task": {"type": "text-classification", "name": "classify"},
                        "dataset": {"type": "private", "name": "inbox.csv", "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "name": "accuracy", "value": 0.7},
                            {"type": "f1", "name": "macro-F1", "value": 0.655},
                        ],
                    }
                ],
            }
        ],
    }
    meta = front(model_card(make(tmp_path / "b", plan={**PLAN, "language": "en"}), "config.json"))
    assert (meta["library_name"], meta["base_model_relation"], meta["language"]) == ("transformers", "finetune", "en")
    meta = front(
        model_card(make(tmp_path / "c", plan={**PLAN, "model": {"name": "x", "licence": "see the model's page"}}))
    )
    assert "license" not in meta
    assert "language" not in meta


def test_an_adapter_that_is_no_lora_is_not_called_one(tmp_path: Path) -> None:
    assert "A LoRA adapter for" in model_card(make(tmp_path / "a"))
    text = model_card(make(tmp_path / "b"), peft_type="IA3")
    assert "An adapter (IA3 of peft) for" in text
    assert "lora" not in text.lower()
    assert front(text)["library_name"] == "peft"


def test_card_says_what_was_trained_on_and_how_to_load(tmp_path: Path) -> None:
    text = model_card(make(tmp_path, verdict={**VERDICT, "notes": [PLAN["model"]["note"], "few cases"]}))
    limits = text[text.index("## Limits") :]
    assert limits.count("dequantised") == 1
    assert "- few cases" in limits
    assert "a difference of +0.300 (95% interval +0.062 to +0.512)" in text
    assert f"- inbox.csv: sha256 `{LOCK['data']['inbox.csv']}`" in text
    assert "the weights are a dequantised Q4\\_1, not the original bf16 ones" in text
    assert LOCK["model"]["digest"] in text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    compile(code, "card", "exec")
    assert "PeftModel.from_pretrained(base, folder)" in code
    assert "not the hub's weights" in code
    plain = {**PLAN, "model": {"name": "a/b", "base_model": "a/b"}}
    text = model_card(make(tmp_path / "hub", plan=plain), "config.json")
    assert "peft" not in text
    assert "dequantised" not in text


def test_a_card_without_a_verdict_does_not_praise(tmp_path: Path) -> None:
    text = model_card(make(tmp_path, verdict=None, without=("audit.json", "lock.json")))
    assert "It was never compared with its base." in text
    assert "- not known: no audit.json" in text
    assert "better." not in text


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    run = nasty_run(tmp_path)
    for text in (card.write_report(run).read_text(encoding="utf-8"), model_card(run)):
        outside = re.sub(r"(`+).*?\1", "", text)
        body = outside.split("\n---\n")[-1]
        body = "\n".join(line for line in body.splitlines() if not line.startswith("    "))
        assert "<script" not in body
        assert "<img" not in body
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
    front(model_card(run))


def test_cells_cannot_break_a_table(tmp_path: Path) -> None:
    verdict = {**VERDICT, "baselines": {"a | b\n| c |": 0.1}}
    text = card.write_report(make(tmp_path, verdict=verdict)).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if "no language model" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
    assert card.code("a`b``c") == "``` a`b``c ```"
    assert NASTY not in card.plain_text(NASTY)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither adapter_config.json nor config.json.*tunesmith export"):
        card.write_model_card(make(tmp_path), tmp_path / "empty")


def test_the_hub_s_own_reader_takes_the_card(tmp_path: Path) -> None:
    """Its rules: base_model, a known layout of model-index, data sets by their names on the hub."""
    cached = "/home/me/.cache/hub/datasets--acme--mail-box/snapshots/0a1b/data/train.parquet"
    note = "the data is made by a program: the inbox of a shop that does not exist. It says nothing about yours."
    run = make(tmp_path, lock={**LOCK, "data": {cached: "ab" * 32}}, verdict={**VERDICT, "notes": [note]})
    text = model_card(run)
    card_of_hub = ModelCard(text)
    data = card_of_hub.data.to_dict()
    assert data["datasets"] == ["acme/mail-box"]
    assert card_of_hub.data.model_name == "tiny"
    (accuracy, f1) = card_of_hub.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_type) == ("accuracy", 0.7, "acme/mail-box")
    assert (f1.metric_type, f1.task_type) == ("f1", "text-classification")
    assert f"- {note[:1].upper()}{note[1:]}" in text
    assert note in text[text.index("## Limits") :]
    ModelCard(model_card(nasty_run(tmp_path / "nasty")))
    assert "model-index" not in front(model_card(make(tmp_path / "none", verdict=None)))


def test_the_five_answers_stand_first(tmp_path: Path) -> None:
    text = card.write_report(make(tmp_path)).read_text(encoding="utf-8")
    asked = [text.index(f"- **{q}**") for q in ("Is it better?", "By how much?", "How sure is that?", "May I use it?")]
    assert asked == sorted(asked)
    assert asked[-1] < text.index("### By how much")
