"""Encoder-decoders through whole runs: rows to a verdict, and exports that plain transformers and peft open alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from tests.runs import tiny_runs
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tunesmith import guards, heritage
from tunesmith.deliver import deliver
from tunesmith.errors import ModelError, PlanError
from tunesmith.folder import Silent
from tunesmith.generate.stream import Ask
from tunesmith.opened import Opened, open_model, open_run
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Message

ASKED = "fox 7: what is it?"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in ("t5", "bart"):
        tiny_runs.model_folder(folder / family, family)
    return folder


def do(settings: dict[str, Any], out: Path) -> dict[str, Any]:
    return run(parse(settings), yaml.safe_dump(settings), out, Silent())


@pytest.fixture(scope="module")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of T5 with an adapter: rehearsed, robustness asked, merged."""
    folder = tmp_path_factory.mktemp("run")
    rows = tiny_runs.reply_file(folder / "rows.jsonl", 50)
    settings = tiny_runs.settings(models / "t5", rows, lr=0.02, epochs=5, update_tokens=128, rehearsal=True)
    settings["task"] = {"instruction": "where is it?"}
    settings["evals"] |= {"max_cases": 8, "max_dev_cases": 4, "explain_cases": 1, "robustness": "quick"}
    do(settings, folder / "out")
    return folder / "out"


def facts(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name).read_text())  # type: ignore[no-any-return]


def test_a_run_comes_to_its_verdict(finished: Path) -> None:
    verdict, plan = facts(finished, "verdict.json"), facts(finished, "plan.json")
    assert plan["layout"]["layout"] == "seq2seq"
    assert verdict["num_cases"] == 8
    assert verdict["decision"] in ("better", "worse", "no relevant difference", "too few cases")
    losses = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    why = {row["key"]: row["why"] for row in plan["resolved"]}
    assert "encoder-decoder" in why["not asked"]
    assert "by micro-batch" in why["micro-batches"]
    assert (finished / "rehearsal.json").is_file()
    assert list((finished / "explained").iterdir())
    assert "AutoModelForSeq2SeqLM" in (finished / "merged" / "README.md").read_text()
    assert facts(finished / "adapter", "adapter_config.json")["task_type"] == "SEQ_2_SEQ_LM"
    assert "encoder-decoder" in str(facts(finished, "export.json")["adapter"]["vllm"]["breaches"])


def test_plain_transformers_and_peft_say_the_same(finished: Path, models: Path) -> None:
    """From the exported folders alone: the prompt by their chat template, the answer by their generation settings."""
    opened = open_run(finished)
    turns = [Message("user", ASKED)]
    [wanted] = opened.complete("tuned", [turns])
    [base] = opened.complete("base", [turns])
    assert wanted.tokens != base.tokens
    adapted = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(models / "t5"), finished / "adapter")
    for folder, model in (
        ("adapter", adapted),
        ("merged", AutoModelForSeq2SeqLM.from_pretrained(finished / "merged")),
    ):
        words = AutoTokenizer.from_pretrained(finished / folder)
        asked = [m.as_dict() for m in opened.messages(turns)]
        given = words.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        most = opened.served.max_new_tokens
        written = model.eval().generate(**given, max_new_tokens=most)[0]
        assert tuple(written[1:].tolist()) == wanted.tokens, folder
        assert words.decode(written, skip_special_tokens=True) == wanted.text


def test_what_is_asked_piece_by_piece_is_the_same_answer(finished: Path) -> None:
    opened = open_run(finished)
    [whole] = opened.complete("tuned", [[Message("user", ASKED)]])
    pieces = list(opened.stream("tuned", [Message("user", ASKED)], ask=Ask()))
    assert "".join(p.text for p in pieces) == whole.text
    with pytest.raises(PlanError, match="the layout is seq2seq"):
        list(opened.stream("tuned", [Message("user", ASKED)], ask=Ask(top=2)))


def test_exports(finished: Path, tmp_path: Path) -> None:
    for kind in ("adapter", "merged"):
        assert deliver(finished, kind, tmp_path / kind, "f16", Silent())["folder"] == str(tmp_path / kind)
    with pytest.raises(ModelError, match="family t5 is not one of"):
        deliver(finished, "gguf", tmp_path / "gguf", "f16", Silent())


def test_labels_by_likelihood_with_all_weights(models: Path, tmp_path: Path) -> None:
    settings = tiny_runs.settings(
        models / "bart", tiny_runs.labelled_file(tmp_path / "rows.jsonl", 36), lr=0.003, epochs=1
    )
    settings |= {"adapt": {"method": "full"}, "objective": {"smoothing": 0.1}}
    settings["evals"] |= {"max_cases": 4, "few_shot": 0, "max_dev_cases": 3}
    verdict = do(settings, tmp_path / "out")
    assert (verdict["task"], verdict["num_cases"]) == ("classify", 4)
    assert facts(tmp_path / "out", "export.json")["model"]["same_text"]
    said = open_run(tmp_path / "out").label_logps("tuned", [[Message("user", "fox 3")]])
    assert said.shape == (1, 3)
    assert torch.isfinite(torch.from_numpy(said)).all()


@pytest.fixture(scope="module")
def opened(models: Path) -> Opened:
    return open_model(str(models / "t5"))


def test_guard_probes_leave_ordinary_text_out(opened: Opened) -> None:
    probes = [p for p in guards.probes_of(opened.session.base) if p.how in ("choice", "pair")]
    assert {p.how for p in guards.PROBES} - {p.how for p in guards.probes_of(opened.session.base)} == {"prose"}
    asked = guards.ask(opened.session, None, opened.renderer, "quick", 0.2, lambda *_: None, probes[:1])
    assert len(asked.scores[probes[0].name]) > 0
    prose = next(p for p in guards.PROBES if p.how == "prose")
    with pytest.raises(ModelError, match="predicts nothing"):  # why it is left out
        guards.minus_bits(opened.session, None, opened.renderer, [(prose, prose.items("quick")[0])])


REFUSED: dict[str, dict[str, Any]] = {
    "needs the seq2seq one": {"regularise": {"neftune": 5}},
    "name rows with replies": {"regularise": {"ewc": 1}},
    "has an encoder too": {"train": {"compile": True}},
    "asks how likely texts are": {"evals": {"lm_eval": ["arc_easy"]}},
    "not read alike": {"objective": {"distil": {"teacher": "DECODER", "share": 0.5}}},
}


def test_what_cannot_work_is_refused_with_the_reason(models: Path, tmp_path: Path) -> None:
    rows = tiny_runs.reply_file(tmp_path / "rows.jsonl", 30)
    decoder = tiny_runs.model_folder(tmp_path / "decoder")
    for message, part in REFUSED.items():
        settings = tiny_runs.settings(models / "t5", rows)
        for group, keys in part.items():
            settings[group] = settings.get(group, {}) | keys
        if "objective" in part:
            settings["objective"] = {"distil": {"teacher": str(decoder), "share": 0.5}}
        with pytest.raises(PlanError, match=message):
            do(settings, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_it_goes_on_with_new_rows(finished: Path, tmp_path: Path) -> None:
    """A step that moves nothing is its parent, on its old cases and on new ones."""
    rows = tiny_runs.reply_file(tmp_path / "all.jsonl", 90).read_text().splitlines()[50:]
    data = tiny_runs.written(tmp_path / "new.jsonl", [json.loads(row) for row in rows])
    said = {"parent": {"run": str(finished)}, "data": {"train": [str(data)]}, "train": {"lr": 1e-30, "max_updates": 1}}
    said["evals"] = {"robustness": "off", "explain_cases": 0, "guards": "off"}
    recipe, text = heritage.settled(parse(said), yaml.safe_dump(said))
    verdict, before = run(recipe, text, tmp_path / "out", Silent()), facts(finished, "verdict.json")
    claims = {(c["cases"], c["against"]): c for c in verdict["lineage"]["claims"]}
    assert (claims["old", "base"]["base"], claims["old", "base"]["tuned"]) == (before["base"], before["tuned"])
    assert claims["new", "previous run"]["effect"] == 0
