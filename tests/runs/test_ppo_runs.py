"""Whole tiny runs of PPO: the values are kept through a stop and shown, and nothing of them is in what is delivered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open
from tests.runs.test_preference_runs import Stops, read, rows_of
from tests.runs.test_reinforce_runs import settings, start, task_file, world  # noqa: F401
from transformers import AutoModelForCausalLM

from tunesmith.errors import InputError, Interrupted
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import train
from tunesmith.verified import verify

PPO: dict[str, Any] = {"objective": {"policy": {"method": "ppo", "critic": {"gae_lambda": 0.9}}}}
HEAD = "masters.heads.value.weight"


def trained(said: dict[str, Any], out: Path, tell: Silent | None = None, *, resume: bool = False) -> Any:
    """Training and export alone."""
    return train(parse(said), yaml.safe_dump(said), out, tell or Silent(), resume=resume)


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, Any]:  # noqa: F811
    return start(world, "ppo", **PPO)


def names_in(folder: Path) -> dict[str, list[str]]:
    """The tensors of each safetensors file."""
    found = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as handle:
            found[str(path.relative_to(folder))] = list(handle.keys())
    return found


def test_values_are_learned_shown_and_left_behind(world: Path, whole: dict[str, Any]) -> None:  # noqa: F811
    out = world / "ppo"
    metrics = [r for r in rows_of(out) if "loss" in r]
    assert all({"explained_variance", "value_loss", "value", "return", "kl_nats", "reward"} <= set(r) for r in metrics)
    assert metrics[0]["value"] == 0 != metrics[2]["value"]  # the head begins at 0; two updates of each sampling
    sampled = pq.read_table(out / "rollouts" / "update_0000003.parquet").to_pylist()
    assert all(len(r["value"]) == len(r["returns"]) == len(r["tokens"]) for r in sampled)
    plan = {r["key"]: r for r in read(out / "plan.json")["resolved"]}
    assert plan["objective.policy"]["value"] == "ppo"
    assert "a value head on the model, lambda 0.9" in plan["objective.policy"]["why"]
    assert "that the value head foretold" in (out / "report.html").read_text(encoding="utf-8")
    names = names_in(out)
    [kept] = [name for name in names if "update_0000004" in name]
    assert {HEAD, "optimizer.exp_avg.heads.value.weight"} <= set(names[kept])
    delivered = {file: tensors for file, tensors in names.items() if "checkpoints" not in file}
    assert len(delivered) >= 2  # adapter and merged
    assert not [t for tensors in delivered.values() for t in tensors if "value" in t or "heads" in t]
    assert not list(out.rglob("heads.*"))
    assert [(c.name, c.found) for c in verify(out) if c.passed is False] == []


def test_a_resume_has_the_same_values(world: Path, whole: dict[str, Any]) -> None:  # noqa: F811
    """Stopped behind the second update, and begun again between two updates of one sampling."""
    said, out = settings(world, **PPO), world / "ppo_stopped"
    with pytest.raises(Interrupted):
        trained(said, out, Stops())
    shutil.rmtree(out / "checkpoints" / "update_0000002")
    trained(said, out, resume=True)
    same = ("rollouts/update_0000003.parquet", "checkpoints/update_0000004/state.safetensors")
    assert all((out / name).read_bytes() == (world / "ppo" / name).read_bytes() for name in same)


def test_all_weights_train_under_it_and_open_alone(world: Path) -> None:  # noqa: F811
    trained(settings(world, **PPO, train={"max_updates": 1}) | {"adapt": {"method": "full"}}, world / "ppo_full")
    found = [p.parent for p in (world / "ppo_full").rglob("model*.safetensors")]
    _, odd = AutoModelForCausalLM.from_pretrained(found[0], output_loading_info=True)
    assert not any(odd.values())


def test_a_run_goes_on_from_another_with_a_head_of_its_own(world: Path, whole: dict[str, Any]) -> None:  # noqa: F811
    """As in InstructGPT, where the policy begins as what was learned before, and the distance is to that."""
    task_file(world / "more.jsonl", num=80)
    said = settings(world, rows="more.jsonl", parent={"run": str(world / "ppo")}, train={"max_updates": 1}, **PPO)
    trained(said, world / "ppo_again")
    [first] = [r for r in rows_of(world / "ppo_again") if "loss" in r]
    assert first["value"] == 0
    assert first["kl_nats"] < 1e-6


def test_what_values_alone_read_is_refused_elsewhere(world: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="critic is read by method ppo alone, and it is grpo"):
        start(world, "refused", objective={"policy": {"critic": {"gamma": 0.9}}})
