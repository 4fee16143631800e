"""Tasks of lm-eval as guard probes: a task of one's own, offline, under base and tuned of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from tests.runs.tiny_runs import labelled_file, model_folder, settings, written

from tunesmith import harness
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec, Who
from tunesmith.errors import PlanError, RecipeError
from tunesmith.folder import Silent
from tunesmith.models.adapters import Adapt
from tunesmith.opened import open_model
from tunesmith.recipe import parse
from tunesmith.run import run

pytest.importorskip("lm_eval")
ITEMS = [
    {"question": f"{word} {i}: what is it?", "options": ["the dog", "the fox", "the clips"], "answer": i % 3}
    for i, word in enumerate(["order", "brown", "quick"] * 10)
]
QUESTIONS = {
    "task": "my_questions",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 2.0},
}
TITLE = "lm-eval my_questions v2.0, acc"


def task_file(folder: Path, **changes: object) -> str:
    data = written(folder / "items.jsonl", ITEMS)
    task = {**QUESTIONS, "dataset_kwargs": {"data_files": {"test": str(data)}}, **changes}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


@torch.no_grad()
def by_hand(session: Session, who: Who) -> list[float]:
    """1 where the right option has the largest sum of log-probabilities behind the question and a blank."""
    found, cut = [], session.base.tokenizer
    with session.borrowed(who) as asked:
        for item in ITEMS:
            sums = []
            for option in item["options"]:
                context, whole = (cut(t)["input_ids"] for t in (item["question"], f"{item['question']} {option}"))
                logp = asked(torch.tensor([whole])).logits[0].log_softmax(-1)
                sums.append(sum(float(logp[i - 1, whole[i]]) for i in range(len(context), len(whole))))
            found.append(float(max(range(3), key=sums.__getitem__) == item["answer"]))
    return found


def test_whoever_is_asked_is_who_answers(model: Path, tmp_path: Path) -> None:
    """Base and a changed tenant, each as its own weights score by hand."""
    session = open_model(str(model)).session
    session.create("shaken", Spec(Adapt(rank=4)))
    for tensor in session.tenants["shaken"].masters.values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3)))
    shaken = session.publish("shaken")
    tasks = harness.tasks_of((task_file(tmp_path),), 200)
    base, tuned = (harness.ask(session, who, tasks)[TITLE] for who in (None, shaken))
    assert base["scores"] == by_hand(session, None)
    assert tuned["scores"] == by_hand(session, shaken)
    assert base["scores"] != tuned["scores"]
    assert set(base["chance"]) == {1 / 3}


def test_a_run_lists_the_task_among_its_guards(model: Path, tmp_path: Path) -> None:
    chosen = settings(model, labelled_file(tmp_path / "rows.jsonl"), max_updates=2)
    chosen["evals"] |= {"lm_eval": [task_file(tmp_path)], "lm_eval_items": 12}
    chosen["export"] = ["adapter"]
    verdict = run(parse(chosen), yaml.safe_dump(chosen), tmp_path / "run", Silent())
    (guard,) = verdict["guard"]
    assert (guard["name"], guard["num_items"]) == (TITLE, 12)
    assert TITLE in (tmp_path / "run" / "report.html").read_text()
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())["resolved"]
    assert [row["value"] for row in planned if row["key"] == TITLE] == [12]
    kept = json.loads((tmp_path / "run" / harness.KEPT).read_text())
    assert {name: len(found[TITLE]["scores"]) for name, found in kept.items()} == {"base": 12, "tuned": 12}


def test_a_task_that_got_worse_is_lost_and_points_of_a_hundred_are_a_share() -> None:
    right = {"a": {"scores": [1.0] * 90 + [0.0] * 10, "chance": [0.25] * 100}}
    wrong = {"a": {"scores": [0.0] * 60 + [1.0] * 30 + [0.0] * 10, "chance": [0.25] * 100}}
    assert harness.results(right, wrong)[0].passed is False
    assert harness.results(right, right)[0].passed is True
    points = {"a": {"scores": [100.0, 40.0] * 60, "chance": [0.0] * 120}}
    fewer = {"a": {"scores": [60.0, 10.0] * 60, "chance": [0.0] * 120}}
    (found,) = harness.results(points, fewer)
    assert found.passed is False
    assert found.base == pytest.approx(0.7)
    assert found.note.endswith("in parts of 100, the largest score")


def test_what_cannot_be_asked_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"there is no file none\.yaml"):
        harness.tasks_of(("none.yaml",), 200)
    text = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    measured = {"metric_list": [{"metric": "word_perplexity"}]}
    with pytest.raises(PlanError, match="has no metric that is a mean over its items"):
        harness.tasks_of((task_file(tmp_path, **text, **measured),), 200)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "far").mkdir()
    far = task_file(tmp_path / "far", dataset_path="nobody/nothing", dataset_kwargs={})
    with pytest.raises(PlanError, match="HF_HUB_OFFLINE forbids the network: take it away once"):
        harness.tasks_of((far,), 200)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"pip install 'tunesmith\[lm-eval\]'"):
        harness.tasks_of(("hellaswag",), 7)
