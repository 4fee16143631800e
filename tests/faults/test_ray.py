"""`--on ray`: the workers of a Ray cluster learn what torchrun's ranks learn, also where one of them is killed on the
way. Skipped where Ray is not installed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from tests.faults import jobs
from tests.faults.launched import halved
from tests.faults.test_lost_ranks import PATIENCE_S, Saboteur, last_state, trained
from tests.runs.mistakes import typed

from tunesmith.engine.ranks import PATIENCE
from tunesmith.errors import InputError
from tunesmith.folder import METRICS
from tunesmith.side_by_side import each
from tunesmith.stopping import Stop

ray = pytest.importorskip("ray")

from tunesmith.launch import ray as launched  # noqa: E402 (behind the skip)

WORKERS = ("--on", "ray", "--workers", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_workers_learn_what_ranks_learn_and_a_lost_one_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: weights, moments, and the row of every update."""
    settings = jobs.settings(epochs=12, micro_tokens=120, max_updates=12)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    ranks, workers = tmp_path / "ranks", tmp_path / "workers"
    assert trained(2, ranks) == 0
    monkeypatch.setenv(PATIENCE, str(PATIENCE_S))
    saboteur = Saboteur(workers, (("follower", signal.SIGKILL),))
    saboteur.start()
    said = typed(["train", str(tmp_path / "recipe.yaml"), *WORKERS, "--out", str(workers), "--json"])
    assert said.code == 0, said.text
    assert len(saboteur.took_s) == 1, "one was killed, and another came"
    exports = json.loads((workers / "export.json").read_text())
    assert said.out == json.dumps({"folder": str(workers), "exports": exports}) + "\n"
    rows = [[(r["update"], r["loss"], r["grad_norm"]) for r in map(json.loads, (out / METRICS).open()) if "loss" in r]
            for out in (ranks, workers)]  # fmt: skip
    assert rows[0] == rows[1]
    (wanted, feed), (mine, again) = (last_state(out, 12) for out in (ranks, workers))
    assert feed["feed"] == again["feed"]
    assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    assert "going on from update_" in (workers / "logs" / "rank_0.log").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_who_gets_how_many_cpus() -> None:
    """As many as there are for all, as they lie on hosts; one where there are GPUs."""
    hosts = [{"CPU": 8.0}, {"CPU": 5.0}]
    assert launched.shares("", hosts, 3) == (4, False)
    assert launched.shares("", hosts, 13) == (1, False)
    assert launched.shares("", [*hosts, {"CPU": 2.0, "GPU": 2.0}], 2) == (1, True)
    with pytest.raises(InputError, match=r"--workers is 14, and the Ray cluster has 13 CPUs: one each"):
        launched.shares("--workers is 14", hosts, 14)
    with pytest.raises(InputError, match=r"has 2 GPUs"):
        launched.shares("", [{"CPU": 9.0, "GPU": 2.0}], 3)


@pytest.mark.usefixtures("cluster")
def test_a_mistake_is_told_as_one(tmp_path: Path) -> None:
    """What a host does not see is named before anything starts, and so is a cluster that is too small."""
    away = launched.Place(1, 1, False, tmp_path / "away", tmp_path, {})
    with pytest.raises(InputError, match=rf"a host of the Ray cluster, does not see {tmp_path}.*that all share"):
        launched.refuse_apart(ray.nodes(), away)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(jobs.settings()))
    said = typed(
        ["train", str(tmp_path / "recipe.yaml"), "--on", "ray", "--workers", "3", "--out", str(tmp_path / "r")]
    )
    assert said.code == 2
    assert "--workers is 3, and the Ray cluster has 2 CPUs" in said.text
    assert not (tmp_path / "r").exists()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(jobs.settings()))
    said = typed(["train", str(tmp_path / "recipe.yaml"), *WORKERS, "--out", str(tmp_path / "r")])
    assert (said.code, "pip install 'tunesmith[ray]'" in said.text) == (2, True)


@pytest.mark.usefixtures("cluster")
def test_trainings_side_by_side_are_tasks() -> None:
    """Each comes back with what it found, or with the error that it met."""
    with launched.placed("", 2, None, Path("r")) as place, Stop(print) as stop:
        assert sorted(each(launched.Tasks(2, place), stop, halved, iter([2, 4, 6]))) == [(2, 1), (4, 2), (6, 3)]
        with pytest.raises(InputError, match="odd"):
            list(each(launched.Tasks(2, place), stop, halved, iter([3])))
