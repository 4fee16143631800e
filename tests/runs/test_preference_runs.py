"""A whole tiny run on pairs of replies: judged by which is likelier, against a reference that no resume moves."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import preferences, reference
from tunesmith.errors import InputError, Interrupted, RunError
from tunesmith.folder import Silent
from tunesmith.models.adapters import Adapt
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.types import Example, Message, Pair
from tunesmith.verified import verify

LN2 = math.log(2)


def pair_file(path: Path, num: int = 60) -> Path:
    """The chosen reply repeats a word of the question."""
    rng, rows = random.Random(4), []
    for i in range(num):
        word, other = rng.sample(tiny_runs.WORDS, 2)
        rows.append(
            {"prompt": f"{word} {i}: what is it?", "chosen": f"the {word}", "rejected": f"the {other}, {other}"}
        )
    return tiny_runs.written(path, rows)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    found = tiny_runs.settings(folder / "model", folder / "pairs.jsonl", max_updates=4, update_tokens=1024)
    found["precision"] = "float32"  # held against plain transformers to the last digits
    found["train"] |= {"rehearsal": False, "every_checkpoint": 2, "lr": 3e-3}
    found["evals"] |= {"explain_cases": 2, "robustness": "quick"}
    return tiny_runs.changed(found, changes)


def start(
    folder: Path, name: str, tell: Silent | None = None, *, resume: bool = False, **changes: Any
) -> dict[str, Any]:
    return tiny_runs.started(settings(folder, **changes), folder / name, tell, resume=resume)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    pair_file(folder / "pairs.jsonl")
    start(folder, "run", train={"rehearsal": True})
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def nats(folder: Path, prompt: str, reply: str) -> float:
    """Of a reply and its end of turn behind the prompt, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    begins = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    ids = torch.tensor(tokenizer(f"{before}{reply}<|im_end|>", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logp = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    return float(logp.gather(1, ids[1:, None])[begins - 1 :].sum())


def test_the_verdict_is_about_held_out_pairs(world: Path) -> None:
    out = world / "run"
    verdict, audit = read(out / "verdict.json"), read(out / "audit.json")
    assert (verdict["task"], verdict["metric"]) == ("preferences", "preference_accuracy")
    assert audit["understood"]["task_why"] == "each row holds a preferred and a rejected answer"
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert verdict["num_cases"] == len(rows) == audit["splits"]["test"]
    for who, folder in (("base", world / "model"), ("tuned", out / "merged")):
        row = rows[0]
        chosen, rejected = (nats(folder, row["prompt"], row[name]) for name in ("reference", "rejected"))
        assert row[f"{who}_measured"] == pytest.approx([chosen, rejected], rel=1e-4)
        assert verdict[who] == pytest.approx(sum(r[f"{who}_score"] for r in rows) / len(rows))
    margins = [r["tuned_measured"][0] - r["tuned_measured"][1] for r in rows]
    assert verdict["secondary"]["preference_margin"]["tuned"] == pytest.approx(sum(margins) / len(rows), rel=1e-6)
    assert {"chosen_nats", "rejected_nats"} <= set(verdict["secondary"])
    assert any("gained on the rejected one" in note for note in verdict["notes"])
    assert any("no answer of its own" in note for note in verdict["notes"])
    page = (out / "report.html").read_text()
    assert "Rejected reply" in page
    assert "margin " in page


def test_it_begins_at_ln_2_and_learns_against_what_it_was(world: Path) -> None:
    """The last update's loss is told from the reference and the weights before it; a reference that moved would give
    ln 2 again."""
    learned = [row for row in rows_of(world / "run") if "loss" in row]
    assert learned[0]["loss"] == pytest.approx(LN2, abs=1e-5)
    assert learned[0]["preferred_frac"] == pytest.approx(0.5, abs=0.5)
    assert learned[-1]["loss"] < LN2 - 0.01
    assert learned[-1]["margin_nats"] > 0
    dev = [row["dev_loss"] for row in rows_of(world / "run") if "dev_loss" in row]
    assert dev[0] == pytest.approx(LN2, abs=1e-5)
    assert dev[-1] != pytest.approx(LN2, abs=1e-4)


def test_the_reference_is_the_base_and_is_kept(world: Path) -> None:
    kept = read(world / "run" / "reference.json")
    rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    audit = read(world / "run" / "audit.json")
    assert len(kept["nats"]) == audit["splits"]["train"] + min(audit["splits"]["dev"], 6)
    known = {(round(c, 3), round(r, 3)) for c, r in kept["nats"].values()}
    found = [
        tuple(round(nats(world / "model", r["prompt"], r[s]), 3) for s in ("chosen", "rejected")) for r in rows[:6]
    ]
    assert any(pair in known for pair in found)
    plan = {row["key"]: row for row in read(world / "run" / "plan.json")["resolved"]}
    assert plan["objective.preference"]["value"] == "dpo"
    assert "beta 0.1" in plan["objective.preference"]["why"]
    assert "no explained cases" in plan["left out"]["why"]
    assert read(world / "run" / "plan.json")["seconds"]["stages"]["reference"] > 0
    assert "reference" in [s["name"] for s in read(world / "run" / "cost.json")["stages"]]


class Stops(Silent):
    """At the third update, behind the checkpoint of the second."""

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        if update == 3:
            raise Interrupted("stopped by the test")


def test_a_resume_never_moves_the_reference(world: Path) -> None:
    with pytest.raises(Interrupted):
        start(world, "stopped", Stops())
    path = world / "stopped" / reference.NAME
    before = path.read_text()
    other = json.loads(before)
    name = next(iter(other["nats"]))
    other["nats"][name][0] += 0.5
    path.write_text(json.dumps(other))
    with pytest.raises(RunError, match=r"reference\.json is not what this run computed"):
        start(world, "stopped", resume=True)
    other["digest"] = reference.digest(other["nats"])  # somebody who mends the digest too: the checkpoint knows
    path.write_text(json.dumps(other))
    with pytest.raises(RunError, match="or reference"):
        start(world, "stopped", resume=True)
    path.write_text(before)
    again = start(world, "stopped", resume=True)
    assert again["digests"] == read(world / "run" / "verdict.json")["digests"]
    assert path.read_text() == before


def test_without_a_reference_none_is_computed(world: Path) -> None:
    verdict = start(
        world, "orpo", objective={"preference": {"loss": "orpo"}}, evals={"preference_by": "mean"},
        adapt={"method": "full", "rank": Adapt().rank}, train={"max_updates": 1},
    )  # fmt: skip
    assert verdict["metric"] == "preference_accuracy"
    assert not (world / "orpo" / reference.NAME).exists()
    assert any("per token" in note for note in verdict["notes"])
    assert [c.name for c in verify(world / "orpo") if c.passed is False] == []


def test_what_comes_after_works_as_for_chat_models(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = world / "run"
    assert [(c.name, c.found) for c in verify(out) if c.passed is False] == []
    asked = tiny_runs.written(tmp_path / "asked.jsonl", [{"prompt": "dog 1: what is it?"}])
    monkeypatch.chdir(tmp_path)
    for words in (
        ["chat", str(out), "--once", "Where is the dog?", "--max-tokens", "3"],
        ["predict", str(out), str(asked), "answers.jsonl"],
        ["next", str(out)],
        ["compare", str(out), str(out)],
    ):
        found = typed(words)
        assert found.code == 0, (words, found.text)
    assert "answer" in (tmp_path / "answers.jsonl").read_text()
    found = typed(["evaluate", str(out), "--out", "e"])
    assert found.code == 2
    assert "with the pairs as data.test" in found.text


def test_chosen_replies_that_became_less_likely_are_told_first() -> None:
    """Chosen and rejected both lose, the rejected ones more: the accuracy is the same or better."""
    case = Example("e-1", (Message("user", "?"),), Pair(Message("assistant", "yes"), Message("assistant", "no")))

    def answers(chosen: float, rejected: float) -> list[Any]:
        return [preferences.answer_of((chosen - n, 4, rejected - 2 * n, 4), "sum") for n in range(6)]

    base, worse, better = answers(-8.0, -9.0), answers(-12.0, -40.0), answers(-6.0, -20.0)
    first = preferences.notes([case] * 6, base, worse, "sum")[0]
    assert "the chosen replies became less likely, by 1.000 nats a token (the rejected ones by 7.750)" in first
    assert not any("less likely" in note for note in preferences.notes([case] * 6, base, better, "sum"))
    assert "right in 0.000 of these pairs" in preferences.notes([case] * 6, base, better, "sum")[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": {"preference": {"gamma": 1.0}}}, "gamma is not read by loss dpo"),
        ({"objective": {"smoothing": 0.1}}, "objective.smoothing is a loss of replies that are right"),
        ({"adapt": {"dropout": 0.1}}, "adapt.dropout"),
        ({"regularise": {"neftune": 5}}, "regularise.neftune"),
        ({"regularise": {"kl": 0.1}}, "preference.beta is what holds"),
        ({"task": {"metric": "rouge_l"}}, "task.metric rouge_l: task preferences"),
        ({"task": {"name": "chat"}}, "is a pair of replies, and task chat learns one"),
        ({"evals": {"history": "own"}}, "evals.history own"),
        ({"evals": {"preferences": ["pairs.jsonl"]}}, "name them as data.test"),
        ({"gates": {"stopped": 0.5}}, "gates.stopped"),
        ({"objective": {"preference": {"beta": 0.0}}}, "nothing is learned at 0"),
        ({"objective": {"preference": {"loss": "dop"}}}, "dpo"),
    ],
)
def test_what_cannot_work_is_refused(world: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        start(world, "refused", **changes)
    assert not (world / "refused").exists()


def test_a_loss_of_pairs_is_refused_for_answers(world: Path, tmp_path: Path) -> None:
    said = settings(world, objective={"preference": {"loss": "simpo"}})
    said["data"] |= {"train": [str(tiny_runs.reply_file(tmp_path / "rows.jsonl"))]}
    with pytest.raises(InputError, match="is how pairs are learned"):
        run(parse(said), "", tmp_path / "run", Silent())
    said = settings(world, task={"name": "preferences"})
    said["data"] |= {"train": [str(tmp_path / "rows.jsonl")]}
    with pytest.raises(InputError, match="task preferences learns pairs"):
        run(parse(said), "", tmp_path / "run", Silent())


def test_init_proposes_it(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    found = typed(["init", str(world / "pairs.jsonl"), "--model", str(world / "model"), "--out", str(out), "--yes"])
    assert found.code == 0, found.text
    assert yaml.safe_load(out.read_text())["task"]["name"] == "preferences"
    assert "pairs of a preferred" in found.text
