"""Whole tiny runs that learn from rewards: what is sampled is kept, graded and shown, and a resume samples the same."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests.runs import forked, tiny_runs
from tests.runs.mistakes import typed
from tests.runs.test_preference_runs import Stops, read, rows_of
from tests.unit.evals.test_judge import completion, server

from tunesmith.errors import InputError, Interrupted, RunError
from tunesmith.folder import Silent
from tunesmith.verified import verify

LONG = [{"kind": "expression", "expression": "num_chars / 40", "name": "chars"}]


def task_file(path: Path, num: int = 40) -> Path:
    """As OpenAI's reinforcement files are: a prompt, and what a grader needs beside it."""
    rng, rows = random.Random(4), []
    for i in range(num):
        word = rng.choice(tiny_runs.WORDS)
        rows.append({"messages": [{"role": "user", "content": f"{word} {i}: what is it?"}], "answer": f"the {word}"})
    return tiny_runs.written(path, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    task_file(folder / "tasks.jsonl")
    tiny_runs.reply_file(folder / "replies.jsonl", num=40)
    return folder


def settings(folder: Path, rows: str = "tasks.jsonl", reward: Any = None, **more: Any) -> dict[str, Any]:
    said = tiny_runs.settings(folder / "model", folder / rows, max_updates=4)
    said["train"] |= {"every_checkpoint": 1, "lr": 3e-3}
    said["evals"].pop("max_new_tokens")
    said["train"].pop("update_tokens")
    policy = {"prompts": 3, "group_size": 4, "max_new_tokens": 12, "inner_epochs": 2}
    said |= {"objective": {"policy": policy}, "reward": LONG if reward is None else reward}
    said |= {"seed": more.pop("seed", 0)}
    return tiny_runs.changed(said, more)


def start(folder: Path, name: str, tell: Silent | None = None, *, resume: bool = False, **more: Any) -> dict[str, Any]:
    return tiny_runs.started(settings(folder, **more), folder / name, tell, resume=resume)


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, Any]:
    return start(world, "whole", train={"rehearsal": True})


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_prompts_alone_are_learned_from(key: str, world: Path) -> None:
    """Where the reward needs nothing beside the reply."""
    texts = [f"{tiny_runs.WORDS[i % 9]} {i}: what is it?" for i in range(40)]
    rows = [{key: text if key == "prompt" else [{"role": "user", "content": text}]} for text in texts]
    tiny_runs.written(world / f"{key}.jsonl", rows)
    verdict = start(world, f"alone_{key}", rows=f"{key}.jsonl")
    assert (verdict["task"], verdict["metric"]) == ("reinforce", "mean_reward")
    assert verdict["num_cases"] > 0
    assert [(c.name, c.found) for c in verify(world / f"alone_{key}") if c.passed is False] == []


def test_a_run_learns_from_rewards_and_is_judged_by_them(world: Path, whole: dict[str, Any]) -> None:
    out = world / "whole"
    assert (whole["task"], whole["metric"]) == ("reinforce", "mean_reward")
    cases = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    for case in cases:
        for who in ("base", "tuned"):
            assert case[f"{who}_score"] == pytest.approx(min(1.0, len(case[f"{who}_output"]) / 40))
    assert whole["base"] == pytest.approx(sum(c["base_score"] for c in cases) / len(cases))
    assert {c["reference"] for c in cases} <= {f"the {word}" for word in tiny_runs.WORDS}
    metrics = [r for r in rows_of(out) if "loss" in r]
    assert [r["update"] for r in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert {"reward", "reply_tokens", "flat_frac", "kl_nats", "entropy_nats", "clipped_high_frac"} <= set(row)
    assert [("mismatch_nats" in r) for r in metrics] == [True, False, True, False]  # two updates of each sampling
    assert metrics[0]["mismatch_nats"] < 1e-4
    tables = sorted((out / "rollouts").iterdir())
    assert [p.name for p in tables] == ["update_0000001.parquet", "update_0000003.parquet"]
    sampled = pq.read_table(tables[0]).to_pylist()
    assert metrics[0]["reward"] == pytest.approx(sum(r["reward"] for r in sampled) / len(sampled))
    assert all(r["reward"] == pytest.approx(min(1.0, len(r["text"]) / 40)) for r in sampled)
    plan = {r["key"]: r for r in read(out / "plan.json")["resolved"]}
    assert plan["objective.policy"]["value"] == "grpo"
    assert "3 prompts with 4 replies each of at most 12 tokens" in plan["objective.policy"]["why"]
    assert read(out / "plan.json")["seconds"]["stages"]["train"] > 0
    assert "replies sampled and graded" in read(out / "rehearsal.json")["seconds"]
    assert [(c.name, c.found) for c in verify(out) if c.passed is False] == []


def test_a_resume_samples_and_learns_the_same(world: Path, whole: dict[str, Any]) -> None:
    """Stopped behind the second update, and between two updates of one sampling, whose replies are read back."""
    with pytest.raises(Interrupted):
        start(world, "stopped", Stops())
    shutil.rmtree(world / "stopped" / "checkpoints" / "update_0000002")
    again = start(world, "stopped", resume=True)
    for name in ("base", "tuned", "effect", "p"):
        assert again[name] == whole[name]
    assert again["digests"]["tuned"] == whole["digests"]["tuned"]
    for table in (world / "whole" / "rollouts").iterdir():
        assert (world / "stopped" / "rollouts" / table.name).read_bytes() == table.read_bytes()
    other = start(world, "seeded", seed=1)
    assert other["digests"]["tuned"] != whole["digests"]["tuned"]  # the mutant


def test_a_run_that_is_killed_goes_on_to_the_same(world: Path, whole: dict[str, Any]) -> None:
    """kill -9 as soon as the first update is saved, between two updates of one sampling or while the next is made."""
    out, recipe = world / "killed", world / "killed.yaml"
    recipe.write_text(yaml.safe_dump(settings(world)))
    silent = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
    process = forked.started("run", str(recipe), "--out", str(out), **silent)
    while process.poll() is None and not (out / "checkpoints" / "update_0000001").is_dir():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    assert not (out / "verdict.json").is_file()
    again = start(world, "killed", resume=True)
    assert again["digests"]["tuned"] == whole["digests"]["tuned"]
    for table in (world / "whole" / "rollouts").iterdir():
        assert (out / "rollouts" / table.name).read_bytes() == table.read_bytes()


def test_the_report_shows_replies_and_rewards(world: Path, whole: dict[str, Any]) -> None:
    page = (world / "whole" / "report.html").read_text(encoding="utf-8")
    sampled = pq.read_table(world / "whole" / "rollouts" / "update_0000003.parquet").to_pylist()
    assert "Replies it was rewarded for" in page
    assert f"{max(r['reward'] for r in sampled):.3f}" in page
    assert "reward" in page


def test_a_run_learns_the_best_against_the_worst(world: Path) -> None:
    """By any loss of pairs, whose keys are those of objective.preference; a resume learns the same."""
    policy = {"method": "online_dpo", "prompts": 3, "group_size": 4, "max_new_tokens": 12, "inner_epochs": 2}
    objective = {"policy": policy, "preference": {"loss": "ipo", "beta": 0.5}}
    found = start(world, "online", objective=objective, train={"rehearsal": True})
    metrics = [r for r in rows_of(world / "online") if "loss" in r]
    assert all({"reward", "flat_frac", "margin_nats", "preferred_frac"} <= set(r) for r in metrics)
    assert metrics[0]["margin_nats"] == pytest.approx(0, abs=1e-4)
    assert metrics[1]["margin_nats"] > 0  # of the same pairs, once they were learned
    plan = {r["key"]: r for r in read(world / "online" / "plan.json")["resolved"]}
    assert "the best and the worst are a pair, learned by ipo: beta 0.5" in plan["objective.policy"]["why"]
    with pytest.raises(Interrupted):
        start(world, "online_stopped", Stops(), objective=objective)
    again = start(world, "online_stopped", resume=True, objective=objective)
    assert again["digests"]["tuned"] == found["digests"]["tuned"]


def test_rows_with_replies_are_prompts_too(world: Path) -> None:
    """Their replies are what a grader compares with, and are not learned."""
    reward = [{"kind": "similarity", "by": "chrf"}, *LONG]
    found = start(world, "replies", rows="replies.jsonl", reward=reward, task={"name": "reinforce"})
    assert found["metric"] == "mean_reward"
    sampled = pq.read_table(world / "replies" / "rollouts" / "update_0000001.parquet").to_pylist()
    parts = [json.loads(r["parts"]) for r in sampled]
    assert all(set(p) == {"similarity", "chars"} for p in parts)


def test_a_judge_is_asked_nothing_twice(world: Path) -> None:
    """Neither by the first process nor by one that samples an update again."""

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Any:
        reply = json.loads(body["messages"][1]["content"])["answer"]
        return completion(json.dumps({"why": "its length", "score": min(10, len(reply) % 11)}))

    with server(answer) as (address, seen):
        said = settings(world, reward=[{"kind": "judge", "endpoint": address, "model": "m"}])
        said["objective"]["policy"]["inner_epochs"] = 1
        with pytest.raises(Interrupted):
            tiny_runs.started(said, world / "judged", Stops())
        shutil.rmtree(world / "judged" / "checkpoints" / "update_0000002")
        num = len(seen)
        tiny_runs.started(said, world / "judged", resume=True)
        asked = [json.dumps(body) for body in seen]
    assert 0 < num < len(asked) == len(set(asked))
    assert len((world / "judged" / "rollouts" / "judged.jsonl").read_text().splitlines()) == len(asked)


def test_a_reward_that_is_dead_stops_the_run(world: Path) -> None:
    with pytest.raises(RunError, match="no reply did better than another one"):
        start(world, "dead", reward=[{"kind": "regex", "pattern": "never to be found"}])
    assert pq.read_table(world / "dead" / "rollouts" / "update_0000001.parquet").num_rows == 60


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reward": []}, "reward names nothing to grade replies by"),
        ({"objective": {"smoothing": 0.1}}, "objective.smoothing is a loss of replies that are right"),
        ({"adapt": {"dropout": 0.1}}, "adapt.dropout"),
        ({"objective": {"policy": {"group_size": 1}}}, "group_size is 1"),
        ({"task": {"name": "generate"}}, "task generate"),
        ({"task": {"name": "reinforce", "metric": "exact_match"}}, "task.metric is the mean of the reward here"),
        ({"objective": {"preference": {"beta": 0.2}}}, "objective.preference is how pairs are learned"),
        ({"objective": {"policy": {"method": "online_dpo", "kl": 0.1}}}, "kl is not read by method online_dpo"),
        ({"train": {"update_tokens": 512}}, "train.update_tokens: an update is as many replies as objective.policy"),
        ({"train": {"every_dev": 2}}, "train.every_dev: there is no loss on dev"),
    ],
)
def test_what_cannot_work_is_refused(world: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        start(world, "refused", **more)


def test_answers_are_compared_with_by_no_command(world: Path, whole: dict[str, Any]) -> None:
    said = typed(["evaluate", str(world / "whole"), "--data", str(world / "replies.jsonl")])
    assert "its reward is measured in a run" in said.text
