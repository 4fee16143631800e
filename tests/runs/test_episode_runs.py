"""Whole tiny runs in an environment: episodes are sampled, kept, learned and compared; a resume plays the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.runs import tiny_runs
from tests.runs.test_preference_runs import Stops, read, rows_of
from tests.runs.test_reinforce_runs import settings, task_file

from tunesmith.errors import Interrupted, PlanError

GAME = '''
import random

RANGE = (0, 2)


class Echo:
    """Longer replies are better, twice; then it is over."""

    def reset(self, row):
        self.num = 0
        return f"Say {row['answer']}."

    def step(self, reply):
        self.num += 1
        worth = min(1.0, len(reply) / 40)
        return (None if self.num == 2 else f"{random.choice(['more', 'again'])}, please"), worth
'''
TURNS = {"kind": "python", "turns": 3, "tokens": 64}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    task_file(folder / "tasks.jsonl")
    (folder / "echo.py").write_text(GAME)
    return folder


def start(folder: Path, name: str, tell: Any = None, *, resume: bool = False, **more: Any) -> dict[str, Any]:
    said = settings(folder, reward=[], **more)
    said |= {"environment": TURNS | {"file": f"{folder}/echo.py:Echo"}}
    said["train"] |= {"max_updates": 3}
    said["evals"] |= {"max_cases": 6, "max_dev_cases": 3}
    return tiny_runs.started(said, folder / name, tell, resume=resume)


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, Any]:
    return start(world, "whole")


def test_episodes_are_kept_learned_and_compared(world: Path, whole: dict[str, Any]) -> None:
    out = world / "whole"
    assert (whole["metric"], whole["smallest_that_matters"]) == ("mean_reward", 0.04)
    sampled = pq.read_table(out / "rollouts" / "update_0000001.parquet").to_pylist()
    for row in sampled:
        turns = json.loads(row["turns"])
        own, others = sum(row["spans"][::2]), sum(row["spans"][1::2])
        assert len(row["tokens"]) == own + others <= 64
        assert len(row["logp"]) == own == sum(t["num_tokens"] for t in turns)
        assert row["reward"] == pytest.approx(sum(min(1.0, len(t["reply"]) / 40) for t in turns))
        assert f"assistant: {turns[0]['reply']}" in row["text"]
        assert row["asked"].startswith("Say the ")  # as `reset` put it
    assert any(len(row["spans"]) > 1 for row in sampled)
    metrics = [r for r in rows_of(out) if "loss" in r]
    assert all(1 <= r["turns"] <= 2 for r in metrics)
    assert metrics[0]["mismatch_nats"] < 1e-4  # token by token, over all that was said
    assert metrics[0]["reply_tokens"] == pytest.approx(sum(len(r["logp"]) for r in sampled) / len(sampled))
    cases = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert whole["base"] == pytest.approx(sum(c["base_score"] for c in cases) / len(cases))
    assert all("assistant: " in c["base_output"] and "(ended: " in c["base_output"] for c in cases)
    plan = {r["key"]: r for r in read(out / "plan.json")["resolved"]}
    assert "at most 3 turns and 64 tokens an episode" in plan["environment"]["why"]
    assert f"environment {world}/echo.py" in read(out / "lock.json")["metric"]
    assert "(ended: " in (out / "report.html").read_text(encoding="utf-8")


def test_a_resume_plays_and_learns_the_same(world: Path, whole: dict[str, Any]) -> None:
    """Stopped between two updates of one sampling, whose episodes are read back."""
    with pytest.raises(Interrupted):
        start(world, "stopped", Stops())
    again = start(world, "stopped", resume=True)
    assert again["digests"]["tuned"] == whole["digests"]["tuned"]
    assert (again["base"], again["tuned"]) == (whole["base"], whole["tuned"])
    for table in (world / "whole" / "rollouts").iterdir():
        assert (world / "stopped" / "rollouts" / table.name).read_bytes() == table.read_bytes()


def test_an_episode_that_finds_no_room_is_refused(world: Path) -> None:
    said = settings(world, reward=[])
    said |= {"environment": TURNS | {"file": f"{world}/echo.py:Echo", "tokens": 4}}
    with pytest.raises(PlanError, match=r"environment.tokens is 4, and a reply may have 12"):
        tiny_runs.started(said, world / "tight")
    said["environment"] |= {"tokens": 4000}
    with pytest.raises(PlanError, match=r"the model's context is 2048"):
        tiny_runs.started(said, world / "loose")
