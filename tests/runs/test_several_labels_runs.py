"""Labels of which several may fit, by a class head: a run from rows to a verdict, and what becomes of its folder."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests import encoders
from tests.runs import tiny_runs
from tests.runs.test_encoders import do, settings
from tests.unit.test_pace import STOPPED
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.api import Run
from tunesmith.build import compute, feed_of, load_base, material
from tunesmith.data.columns import NO_LABEL
from tunesmith.deliver import deliver
from tunesmith.errors import PlanError
from tunesmith.evals.out_of_scope import TEXTS
from tunesmith.folder import Silent
from tunesmith.opened import open_any, open_run
from tunesmith.pace import Job
from tunesmith.predict import Predictor
from tunesmith.questions import Said, of_run
from tunesmith.recipe import parse
from tunesmith.types import Message


def rows_file(path: Path, num: int = 160) -> Path:
    """Texts whose labels are those of three words that stand in them: none to three."""
    rng, rows = random.Random(0), []
    for i in range(num):
        labels = [label for label in encoders.LABELS if rng.random() < 0.4]
        words = [*rng.choices(["sold", "brown", "quick", "lazy", "jumps", "May"], k=4), *labels, str(i)]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "labels": labels})
    return tiny_runs.written(path, rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("world")
    model = encoders.folder(at / "model", "bert")
    said = settings(model, rows_file(at / "rows.jsonl"), rehearsal=True, lr=3e-3, update_tokens=128, epochs=6)
    do(said, at / "out")
    return at / "out"


def named(row: Sequence[float], names: dict[int, str]) -> str:
    return ", ".join(names[k] for k, z in enumerate(row) if z > 0) or NO_LABEL


def test_the_clock_counts_what_a_run_of_several_labels_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temperature is fitted, and no texts from elsewhere are asked, since none of the labels may fit."""
    recipe = parse(settings(encoders.folder(tmp_path / "model", "bert"), rows_file(tmp_path / "rows.jsonl")))
    base = load_base(recipe, compute(recipe))
    made = material(recipe, base)
    feed = feed_of(recipe, base, made)
    asked: list[int] = []

    def ask(self: Job, who: str, form: object, cases: Sequence[object], most: int | None = None, num: int = 0) -> float:
        asked.append(num or len(cases))
        return 0.0

    monkeypatch.setattr(Job, "asked", ask)
    job = Job(recipe, base, made, feed, feed.num_updates, STOPPED, 1, waits=False)
    job.evaluate()
    job.robustness()
    assert max(asked) == len(made.split.test)
    assert len(TEXTS) not in asked


def test_a_run_ends_in_a_verdict_on_sets(finished: Path) -> None:
    verdict = json.loads((finished / "verdict.json").read_text())
    assert (verdict["task"], verdict["metric"]) == ("multilabel", "label_set_f1")
    assert set(verdict["secondary"]) == {"label_set_macro_f1", "exact_match"}
    assert verdict["base_form"] in ("linear probe on the pooled state", "linear probe on the mean state")
    assert verdict["base"] > 0.8  # the mean of the states knows which words are there
    assert verdict["tuned"] > 0.8  # the labels stand in the text
    assert "TF-IDF + logistic regression" in verdict["baselines"]
    assert not (finished / "calibration.json").exists()
    resolved = {row["key"]: row for row in json.loads((finished / "plan.json").read_text())["resolved"]}
    assert resolved["labels"]["value"] == "each by itself"
    assert "0.5" in resolved["labels"]["why"]
    kinds = json.loads((finished / "understanding.json").read_text())["errors"]
    assert kinds["looked_at"] == "labels"


def test_the_exported_folder_is_a_plain_classifier(finished: Path) -> None:
    """Opened without a word of ours: the labels and the kind of problem stand in its configuration."""
    folder = finished / "merged"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification"
    assert tuple(model.config.id2label.values()) == encoders.LABELS
    texts = ["sold quick fox 7", "dog lazy fox", "lazy"]
    logits = encoders.logits(model, tokenizer, texts)
    for found, z in zip(Run(finished).predict(texts), logits):
        assert found.answer == named(z.tolist(), model.config.id2label)
        assert list(found.probabilities or {}) == list(encoders.LABELS)
        assert list((found.probabilities or {}).values()) == pytest.approx(z.sigmoid().tolist(), abs=1e-3)
    card = (folder / "README.md").read_text()
    assert "(logits > 0)" in card
    code = card.split("```python\n")[1].split("```")[0].replace('folder = "."', f"folder = {str(folder)!r}")
    said: list[Any] = []
    exec(code.replace('"…"', '"dog lazy fox"').replace("print(", "said.append("), {"said": said})
    assert ", ".join(said[0]) == named(logits[1].tolist(), model.config.id2label)


def test_base_and_tuned_answer_from_the_run_folder(finished: Path, tmp_path: Path) -> None:
    rows = pq.read_table(finished / "scores" / "cases.parquet").to_pylist()
    prompts, run_of = [r["prompt"] for r in rows], Run(finished)
    assert [p.answer for p in run_of.predict(prompts)] == [r["tuned_output"] for r in rows]
    of_base = run_of.predict(prompts, model="base")
    assert any(p.answer == r["reference"] for p, r in zip(of_base, rows))
    source = tiny_runs.written(tmp_path / "new.jsonl", [{"text": p} for p in prompts])
    run_of.predict_file(source, tmp_path / "out.jsonl", each_label=True)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in written] == [r["tuned_output"] for r in rows]
    assert all({f"probability: {label}" for label in encoders.LABELS} < set(row) for row in written)
    asked = of_run(finished, [], Said())
    assert (asked.metric.name, asked.labels) == ("label_set_f1", ())


def test_it_is_served_whatever_the_length_of_a_text(finished: Path) -> None:
    opened = open_run(finished)
    for text in ("dog lazy fox", "dog " * 90):
        turns = [Message("user", text)]
        pieces = "".join(piece.text for piece in opened.stream("tuned", turns))
        assert pieces == Predictor(opened, None)([tuple(turns)])[0].answer


def test_exports_on_request_and_what_the_folder_is_opened_as(finished: Path, tmp_path: Path) -> None:
    facts = deliver(finished, "adapter", tmp_path / "adapter", "f16", Silent())
    assert facts["transformers"]["same_text"]
    opened = open_any(str(finished / "merged"))
    assert (opened.served.task, opened.served.labels) == ("multilabel", encoders.LABELS)


def test_what_needs_one_label_a_text_is_refused(finished: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text()) | {"objective": {"contrastive": 0.5}}
    with pytest.raises(PlanError, match="or lists of them"):
        do(recipe, tmp_path / "out")
