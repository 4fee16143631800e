"""Encoders end to end: a run from rows to a verdict, and what becomes of its folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests import encoders
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from tunesmith import heritage, toxic_model
from tunesmith.api import Run
from tunesmith.cli.main import app
from tunesmith.deliver import deliver
from tunesmith.errors import DataError, InputError, PlanError
from tunesmith.folder import Silent
from tunesmith.probing import NAME as HEAD
from tunesmith.recipe import parse
from tunesmith.run import run


def settings(model: Path, data: Path, **train: Any) -> dict[str, Any]:
    found = tiny_runs.settings(model, data, **train)
    found["data"]["max_tokens"] = 1024  # more than the model reads, which is the default of every recipe
    found["evals"] |= {"guards": "full", "explain_cases": 1, "robustness": "quick", "max_dev_cases": 12}
    del found["evals"]["max_new_tokens"]  # nothing is written
    return found


def do(said: dict[str, Any], out: Path, *, resume: bool = False) -> dict[str, Any]:
    return run(parse(said), yaml.safe_dump(said), out, Silent(), resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("world")
    model = encoders.folder(at / "model", "bert")
    data = tiny_runs.labelled_file(at / "rows.jsonl", 160)
    do(settings(model, data, rehearsal=True, lr=1e-3, update_tokens=128, epochs=6), at / "out")
    return at / "out"


def test_a_classifier_of_ones_own_tells_toxic_rows(finished: Path, tmp_path: Path) -> None:
    """A run and its exported folder; mutant: the label that was named is not the one that is looked at."""
    texts = [f"where is the {word}" for word in ("fox", "dog", "clips")]
    said = [one.probabilities or {} for one in Run(finished).predict(texts)]
    model = AutoModelForSequenceClassification.from_pretrained(finished / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "merged")
    names = {name: k for k, name in model.config.id2label.items()}
    plain = encoders.logits(model, tokenizer, texts).softmax(1)
    for label in ("fox", "dog"):
        assert toxic_model.reader(f"{finished}:{label}").score(texts).tolist() == [shares[label] for shares in said]
        found = toxic_model.reader(f"{finished / 'merged'}:{label}").score(texts * 20)  # in several batches
        np.testing.assert_allclose(found, plain[:, names[label]].tile(20), atol=1e-4)
    with pytest.raises(InputError, match=r"its labels are clips, dog, fox. Say which"):
        toxic_model.reader(str(finished))
    rows, asked = tmp_path / "rows.jsonl", [f"{text} {k}" for k in range(20) for text in texts]
    rows.write_text("".join(json.dumps({"text": text, "label": "xy"[k % 2]}) + "\n" for k, text in enumerate(asked)))
    num = int((toxic_model.reader(f"{finished}:fox").score(asked) >= toxic_model.SURE).sum())
    assert 0 < num < 60
    words = ["audit", "--model", str(finished.parent / "model"), "--data", str(rows), "--toxicity", f"{finished}:fox"]
    done = CliRunner().invoke(app, [*words, "--fix", str(tmp_path / "out"), "--drop", "toxic_prompts"])
    assert f"60 rows read = {60 - num} written (0 masked, 0 cut) + {num} dropped" in done.output, done.output
    for more, why in ((["--drop", "toxic_prompts"], "name its folder with --fix"), (["--drop", "x"], "wanted one of")):
        assert why in typed([*words, *more]).text


@pytest.mark.parametrize(
    ("labels", "bad"),
    [
        (("LABEL_0", "toxic"), ["toxic"]),
        (("non-toxic", "not_toxic", "nothate", "toxic", "hate speech"), ["toxic", "hate speech"]),
        (("neutral", "severe_toxic", "identity_hate"), ["severe_toxic", "identity_hate"]),
    ],
)
def test_labels_whose_names_say_that_they_are_toxic(labels: tuple[str, ...], bad: list[str]) -> None:
    assert toxic_model.toxic_labels("m", labels, "", may_be_all=False) == bad


def test_a_run_of_an_encoder_ends_in_a_verdict(finished: Path) -> None:
    verdict = json.loads((finished / "verdict.json").read_text())
    forms = json.loads((finished / "scores" / "forms.json").read_text())
    assert [f["form"] for f in forms] == ["linear probe on the pooled state", "linear probe on the mean state"]
    assert verdict["base_form"] in [f["form"] for f in forms]
    assert verdict["base"] > 0.4  # three classes: the probes know something
    assert verdict["tuned"] > 0.9  # the label stands in the text
    exported = json.loads((finished / "export.json").read_text())
    assert exported["adapter"]["same_text"]
    assert exported["adapter"]["logit_diff"] < 1e-5
    assert exported["merged"]["logit_diff"] < 1e-4
    planned = {r["key"]: r for r in json.loads((finished / "plan.json").read_text())["resolved"]}
    assert "writes no text" in planned["not asked"]["why"]
    assert planned["layout"]["value"] == "rows"
    assert "evals.max_new_tokens" not in planned
    assert json.loads((finished / "calibration.json").read_text())["labels"] == list(encoders.LABELS)


def test_the_exported_folder_is_a_plain_classifier(finished: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(finished / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "merged")
    assert tuple(model.config.id2label.values()) == encoders.LABELS
    assert tokenizer.model_max_length == 63
    texts = ["sold quick fox 7", "dog lazy sold", "clips " * 80]
    logits = encoders.logits(model, tokenizer, texts)
    for found, wanted in zip(Run(finished).predict(texts), logits):
        assert found.answer == model.config.id2label[int(wanted.argmax())]
        assert found.confidence is None or found.confidence == pytest.approx(float(wanted.softmax(-1).max()), rel=1e-3)
    card = (finished / "merged" / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "pipeline_tag: text-classification" in card


def test_base_and_tuned_answer_from_the_run_folder(finished: Path) -> None:
    rows = pq.read_table(finished / "scores" / "cases.parquet").to_pylist()
    prompts, run_of = [r["prompt"] for r in rows], Run(finished)
    assert [p.answer for p in run_of.predict(prompts)] == [r["tuned_output"] for r in rows]
    pooled = [p.answer == r["reference"] for p, r in zip(run_of.predict(prompts, model="base"), rows)]
    assert sum(pooled) / len(pooled) > 0.5  # the head as the run began with it, and not one of zeros


def test_exports_on_request_and_what_cannot_be_exported(finished: Path, tmp_path: Path) -> None:
    facts = deliver(finished, "adapter", tmp_path / "adapter", "f16", Silent())
    assert facts["transformers"]["same_text"]
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    with pytest.raises(InputError, match="gives classes"):
        deliver(finished, "gguf", tmp_path / "gguf", "f16", Silent())


def test_a_tuned_classifier_is_a_base_with_a_head_of_its_own(finished: Path, tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    said = settings(finished / "merged", data, max_updates=1)
    said["evals"] |= {"robustness": "off", "explain_cases": 0}
    verdict = do(said, tmp_path / "out")
    assert verdict["base_form"] == "its own class head"
    assert verdict["base"] > 0.9
    assert not (tmp_path / "out" / HEAD).exists()


def test_a_merged_folder_that_is_gone_is_made_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "merged" / "config.json").unlink()
    (tmp_path / "run" / "merged" / "README.md").unlink()
    facts = deliver(tmp_path / "run", "merged", None, "f16", Silent())
    assert facts["transformers"]["same_text"]
    assert "AutoModelForSequenceClassification" in (tmp_path / "run" / "merged" / "README.md").read_text()


def test_evaluate_asks_a_classifier_without_an_instruction(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instruction that other models get names the labels, which are the words that this one looks for."""
    monkeypatch.chdir(tmp_path)
    said = typed(["evaluate", str(finished / "merged"), "--data", str(finished.parent / "rows.jsonl"), "--json"])
    assert said.code == 0, said.text
    assert json.loads(said.out)["models"][0]["score"] > 0.9


def test_a_head_for_other_labels_is_replaced_by_a_probe(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zeros in its place would be a base at chance, which anything beats."""
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl")
    words = {"clips": "thing", "dog": "animal", "fox": "animal"}
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    tiny_runs.written(data, [{**row, "label": words[row["label"]]} for row in rows])
    said = settings(finished / "merged", data, max_updates=1)
    said["evals"] |= {"robustness": "off", "explain_cases": 0}
    verdict = do(said, tmp_path / "out")
    assert "linear probe" in verdict["base_form"]
    assert verdict["base"] > 0.9
    assert (tmp_path / "out" / HEAD).exists()
    adapter = tmp_path / "out" / "adapter"
    [code] = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(adapter)
    [asked] = Run(tmp_path / "out").predict([text := rows[0]["text"]])
    capsys.readouterr()
    code = code.replace('"merged"', json.dumps(str(finished / "merged"))).replace("…", text)
    exec(code, {})  # the base's own head has three classes, this one two
    assert capsys.readouterr().out.strip() == asked.answer


def test_the_head_begins_as_the_probe_and_stays_over_a_resume(finished: Path) -> None:
    kept = load_file(finished / HEAD)
    assert {"classifier.weight", "classifier.bias", "mean_probe.weight", "mean_probe.bias"} <= set(kept)
    assert float(kept["classifier.weight"].abs().max()) > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adapt": {"method": "ia3"}}, "proved on models that write"),
        ({"evals": {"max_new_tokens": 9}}, "the longest answer that is written"),
        ({"regularise": {"ewc": 1.0}}, "what the base would write"),
        ({"train": {"average": {"base_share": 0.2}}}, "ordinary text"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused(
    finished: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text()) | change
    with pytest.raises(PlanError, match=said):
        do(recipe, tmp_path / "out")


def test_an_encoder_does_not_write(finished: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    recipe["data"]["train"] = [str(tiny_runs.reply_file(tmp_path / "replies.jsonl"))]
    with pytest.raises(PlanError, match="reads texts and writes none"):
        do(recipe, tmp_path / "out")


def goes_on(finished: Path, data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    said = {"parent": {"run": str(finished)}, "data": {"train": [str(data)]}, **changes}
    said |= {"evals": {"robustness": "off", "explain_cases": 0, "guards": "off"}}
    recipe, text = heritage.settled(parse(said), yaml.safe_dump(said))
    return run(recipe, text, out, Silent())


def test_a_classifier_goes_on_with_new_rows(finished: Path, tmp_path: Path) -> None:
    """A step that moves nothing: it is its parent, and the base beneath is that of the parent, with its head."""
    rows = tiny_runs.labelled_file(tmp_path / "all.jsonl", 400).read_text().splitlines()[200:300]
    data = tiny_runs.written(tmp_path / "new.jsonl", [json.loads(row) for row in rows])
    verdict = goes_on(finished, data, tmp_path / "out", train={"lr": 1e-30, "max_updates": 1})
    before = json.loads((finished / "verdict.json").read_text())
    claims = {(c["cases"], c["against"]): c for c in verdict["lineage"]["claims"]}
    assert (claims["old", "base"]["base"], claims["old", "base"]["tuned"]) == (before["base"], before["tuned"])
    assert claims["new", "previous run"]["effect"] == 0
    one, other = (load_file(folder / HEAD) for folder in (finished, tmp_path / "out"))
    assert all(torch.equal(one[n], other[n]) for n in one)
    cats = tiny_runs.written(tmp_path / "cat.jsonl", [{"text": f"cat {i}", "label": "cat"} for i in range(40)])
    with pytest.raises(PlanError, match=r"cat is no label of .*--model .*merged without --from"):
        goes_on(finished, cats, tmp_path / "other")
    shutil.copytree(finished, tmp_path / "edited")
    save_file({n: t + 1 for n, t in one.items()}, tmp_path / "edited" / HEAD)
    with pytest.raises(DataError, match=f"{HEAD} changed since the run ended"):
        goes_on(tmp_path / "edited", data, tmp_path / "other")
