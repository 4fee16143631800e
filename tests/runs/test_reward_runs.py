"""A whole tiny run of a reward model: judged on held-out pairs, read by plain transformers as it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.runs.test_preference_runs import LN2, Stops, pair_file, read, rows_of
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tunesmith.best_of import best_of
from tunesmith.errors import InputError, Interrupted
from tunesmith.folder import Silent
from tunesmith.opened import open_run
from tunesmith.rollouts.reward_model import RewardModel
from tunesmith.types import Attempt, Grade, Message
from tunesmith.verified import verify


def start(
    folder: Path, name: str, tell: Silent | None = None, *, resume: bool = False, **changes: Any
) -> dict[str, Any]:
    said = tiny_runs.settings(folder / "model", folder / "pairs.jsonl", max_updates=6, update_tokens=1024)
    said |= {"precision": "float32", "task": {"name": "reward"}, "objective": {"reward": {"centre": 0.01}}}
    said["train"] |= {"lr": 1e-2}
    del said["evals"]["max_new_tokens"]
    return tiny_runs.started(tiny_runs.changed(said, changes), folder / name, tell, resume=resume)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    pair_file(folder / "pairs.jsonl", 90)
    start(folder, "run", train={"rehearsal": True})
    return folder


def scored(model: Any, folder: Path, prompt: str, reply: str) -> float:
    """As the model card says, from text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    with torch.no_grad():
        return float(model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits)


def test_the_verdict_is_about_held_out_pairs(world: Path) -> None:
    out = world / "run"
    verdict, rows = read(out / "verdict.json"), pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert (verdict["task"], verdict["metric"], verdict["base"]) == ("reward", "reward_accuracy", 0.5)
    gaps = [row["tuned_measured"][0] - row["tuned_measured"][1] for row in rows]
    assert verdict["tuned"] == pytest.approx(sum(g > 0 for g in gaps) / len(gaps))
    assert verdict["tuned"] > 0.8
    loss = sum(math.log1p(math.exp(-g)) for g in gaps) / len(gaps)
    assert verdict["secondary"]["reward_loss"]["tuned"] == pytest.approx(loss, rel=1e-6)
    assert verdict["secondary"]["reward_loss"]["base"] == pytest.approx(LN2)
    assert verdict["baselines"] == {"the shorter reply": 1.0, "the longer reply": 0.0}  # as these rows are made
    assert any("log odds" in note for note in verdict["notes"])
    page = (out / "report.html").read_text()
    assert "Tuned prefers" in page
    assert "tunesmith explain RUN" not in page
    assert [(c.name, c.found) for c in verify(out) if c.passed is False] == []


def test_it_begins_at_ln_2_and_learns(world: Path) -> None:
    learned = [row for row in rows_of(world / "run") if "loss" in row]
    dev = [row["dev_loss"] for row in rows_of(world / "run") if "dev_loss" in row]
    assert learned[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    assert learned[-1]["loss"] < LN2 - 0.05
    assert learned[-1]["score_margin"] > 0
    assert dev[0] == pytest.approx(LN2, abs=1e-6)
    plan = {row["key"]: row for row in read(world / "run" / "plan.json")["resolved"]}
    assert "centre 0.01" in plan["objective.reward"]["why"]
    assert plan["scoring"]["value"] == "scores"
    assert not (world / "run" / "reference.json").exists()


def test_plain_libraries_give_the_scores_that_were_measured(world: Path) -> None:
    out = world / "run"
    opened = AutoModelForSequenceClassification.from_pretrained
    merged = opened(out / "merged").eval()
    adapted = PeftModel.from_pretrained(opened(world / "model", num_labels=1), out / "adapter").eval()
    row = pq.read_table(out / "scores" / "cases.parquet").to_pylist()[0]
    for model, folder in ((merged, out / "merged"), (adapted, out / "adapter")):
        found = [scored(model, folder, row["prompt"], row[side]) for side in ("reference", "rejected")]
        assert found == pytest.approx(row["tuned_measured"], abs=1e-4)
    assert "AutoModelForSequenceClassification" in (out / "merged" / "README.md").read_text()
    assert "num_labels=1" in (out / "adapter" / "README.md").read_text()


def test_a_resume_is_the_run_that_never_stopped(world: Path) -> None:
    with pytest.raises(Interrupted):
        start(world, "stopped", Stops())
    again = start(world, "stopped", resume=True)
    assert again["digests"]["tuned"] == read(world / "run" / "verdict.json")["digests"]["tuned"]


def test_all_weights_can_train_and_a_run_can_go_on(world: Path) -> None:
    start(world, "full", adapt={"method": "full", "rank": 16}, train={"lr": 1e-3})
    found = AutoModelForSequenceClassification.from_pretrained(world / "full" / "model").eval()
    row = pq.read_table(world / "full" / "scores" / "cases.parquet").to_pylist()[0]
    assert scored(found, world / "full" / "model", row["prompt"], row["reference"]) == pytest.approx(
        row["tuned_measured"][0], abs=1e-4
    )
    more = {"data": {"train": [str(pair_file(world / "more.jsonl", 120))]}}
    onward = start(world, "onward", parent={"run": str(world / "run")}, **more)
    assert onward["base"] == 0.5
    learned = [r for r in rows_of(world / "onward") if "loss" in r]
    assert learned[0]["loss"] < LN2 - 0.05  # it begins where its parent ended


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": {"preference": {"beta": 0.2}}}, "objective.preference is how pairs are learned"),
        ({"objective": {"smoothing": 0.1}}, "objective.smoothing is a loss of replies that are right"),
        ({"objective": {"reward": {"centre": -1.0}}}, "objective.reward.centre is -1"),
        ({"regularise": {"kl": 0.1}}, "regularise.kl compares what two passes would write"),
        ({"task": {"name": "preferences"}}, "objective.reward is how a reward model is learned"),
        ({"task": {"metric": "rouge_l"}}, "task.metric rouge_l: task reward"),
        ({"adapt": {"method": "ia3"}}, "adapt.method ia3 is proved on models that write"),
    ],
)
def test_what_cannot_work_is_refused(world: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        start(world, "refused", **changes)
    assert not (world / "refused").exists()


def test_what_comes_after_works_or_says_why_not(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, asked = str(world / "run"), str(tiny_runs.written(tmp_path / "asked.jsonl", [{"prompt": "dog?"}]))
    for words in (["next", out], ["compare", out, out], ["export", out, "--to", "merged", "--out", "given"]):
        found = typed(words)
        assert found.code == 0, (words, found.text)
    answering = (["chat", out], ["chat", f"{out}/merged"], ["chat", "given"])
    for words in (*([*some, "--once", "dog?"] for some in answering), ["serve", out], ["predict", out, asked, "a.csv"]):
        found = typed(words)
        assert found.code != 0, words
        assert "score" in found.text, (words, found.text)
        assert "Traceback" not in found.text


@pytest.fixture(scope="module")
def writer(world: Path) -> Path:
    """A run that answers."""
    said = tiny_runs.settings(world / "model", tiny_runs.reply_file(world / "replies.jsonl"), max_updates=2)
    tiny_runs.started(said | {"precision": "float32"}, world / "writer")
    return world / "writer"


def predicted(words: list[str], rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    source = tiny_runs.written(out.with_name(f"asked {out.name}"), rows)
    found = typed(["predict", words[0], str(source), str(out), *words[1:]])
    assert found.code == 0, found.text
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_the_best_of_several_answers_is_the_one_with_the_highest_score(
    world: Path, writer: Path, tmp_path: Path
) -> None:
    """Whatever stands around it in the file; its score is what plain transformers give it."""
    rows = [{"prompt": f"{word}: what is it?"} for word in ("dog", "clips", "sold")]
    words = [str(writer), "--best-of", "5", "--reward", str(world / "run")]
    found = predicted(words, rows, tmp_path / "best.jsonl")
    assert predicted(words, rows[::-1], tmp_path / "turned.jsonl")[::-1] == found
    best = best_of(5, world / "run")
    assert best is not None
    opened, tried = open_run(writer), []

    class Watched(RewardModel):
        def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
            grades = super().__call__(attempts)
            tried.append([(a.text, g.value) for a, g in zip(attempts, grades)])
            return grades

    given = best.reward
    watched = Watched(given.session, given.who, given.renderer, given.least)
    replace(best, reward=watched)(opened, "tuned", (Message("user", rows[0]["prompt"]),))
    [each] = tried
    assert len({text for text, _ in each}) > 1
    answer, score = max(each, key=lambda both: both[1])
    assert (found[0]["answer"], found[0]["reward"]) == (answer, pytest.approx(score, abs=1e-3))
    assert min(each, key=lambda both: both[1])[1] < score - 1e-3  # the mutant: the worst of them
    merged = AutoModelForSequenceClassification.from_pretrained(world / "run" / "merged").eval()
    assert scored(merged, world / "run" / "merged", rows[0]["prompt"], answer) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--best-of", "4"], "wants a number above 1 and a reward model"),
        (["--reward", "RUN"], "wants a number above 1 and a reward model"),
        (["--best-of", "4", "--reward", "WRITER"], "is a run of task generate"),
    ],
)
def test_what_picks_no_best_is_refused(world: Path, writer: Path, tmp_path: Path, words: list[str], says: str) -> None:
    names = {"RUN": str(world / "run"), "WRITER": str(writer)}
    source, out = tiny_runs.written(tmp_path / "in.jsonl", [{"prompt": "dog?"}]), tmp_path / "out.jsonl"
    found = typed(["predict", str(writer), str(source), str(out), *(names.get(word, word) for word in words)])
    assert found.code != 0
    assert says in " ".join(found.text.split())
    assert not out.exists()
