"""`--at-once`: trainings in processes of their own come to what they come to one after another."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import curve, seeds, sweep
from tunesmith.errors import Interrupted, RunError
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run
from tunesmith.side_by_side import Beside, Processes, each, processes
from tunesmith.stopping import Stop

SPACE = {"train.lr": [1e-3, 1e-2], "adapt.rank": [2, 4]}


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with processes(2) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("beside"))


def settings(place: Path, **train: Any) -> dict[str, Any]:
    return tiny_runs.settings(place / "model", place / "rows.jsonl", **train) | {"precision": "float32"}


def climbed(place: Path, out: Path, beside: Beside | None = None) -> list[dict[str, Any]]:
    made = settings(place, epochs=1, update_tokens=1024)
    how = curve.Climb(300.0, "loss", beside)  # accuracy on six cases would hide what differs
    found = curve.curve(parse(made), yaml.safe_dump(made), out, Silent(), how)
    return [{k: v for k, v in rung.items() if k != "seconds"} for rung in found["rungs"]]


class Astray:
    """A mutant: each training draws by another seed."""

    def __init__(self, pool: Processes) -> None:
        self.pool, self.num = pool, pool.num

    def submit(self, work: Callable[[Any], Any], order: Any) -> Future[Any]:
        return self.pool.submit(work, replace(order, fitted=replace(order.fitted, seed=7)))

    def stop(self) -> None:
        self.pool.stop()


def test_sizes_of_a_curve(place: Path, pool: Processes) -> None:
    alone = climbed(place, place / "alone")
    assert climbed(place, place / "beside", pool) == alone
    assert climbed(place, place / "astray", Astray(pool)) != alone


def tried(place: Path, out: Path, beside: Beside | None = None) -> list[dict[str, Any]]:
    made = settings(place, max_updates=3) | {"sweep": {"space": SPACE, "trials": 4, "prune": "off"}}
    found = sweep.sweep(parse(made), yaml.safe_dump(made), out, Silent(), beside=beside)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]


def test_settings_of_a_sweep(place: Path, pool: Processes) -> None:
    """Of a space that is tried whole, and without pruning: else what is tried next hangs on what has ended."""
    alone = tried(place, place / "one")
    assert [row["number"] for row in alone] == [1, 2, 3, 4]
    assert tried(place, place / "two", pool) == alone


def test_seeds(place: Path, pool: Processes) -> None:
    made = settings(place, max_updates=2)
    given = parse(made), yaml.safe_dump(made)
    seeds.run_beside(*given, place / "seeds", Silent(), 2, pool, resume=False)
    found = seeds.run_seeds(*given, place / "seeds", Silent(), 2, resume=True)
    last = seeds.seeded(*given, place / "seeds", 2, resume=True)[1]
    alone = run(last.recipe, last.text, place / "last", Silent())
    assert found["effects"][1] == alone["effect"]
    beside = json.loads((place / "seeds" / "seed_1" / "verdict.json").read_text())
    assert beside["digests"] == alone["digests"]


def sleeps(seconds: float) -> float:
    stop = Stop(lambda text: None)
    with stop, stop.gently("a nap"):
        until = time.monotonic() + seconds
        while time.monotonic() < until and not stop.is_asked:
            time.sleep(0.01)
    return seconds


def dies(order: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_person_stops_all_of_them() -> None:
    """Each hears it, also what has only been asked for, and nobody waits for what was not."""
    began = time.monotonic()

    def naps() -> Iterator[float]:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        yield from [900.0] * 4

    with processes(2) as own, Stop(lambda text: None) as stop, pytest.raises(Interrupted):
        list(each(own, stop, sleeps, naps()))
    assert time.monotonic() - began < 600


def test_a_lost_process_is_said() -> None:
    with processes(2) as own, Stop(lambda text: None) as stop, pytest.raises(RunError, match="ended from outside"):
        list(each(own, stop, dies, iter([1])))


def test_what_cannot_be_at_once_is_refused(place: Path) -> None:
    file = str(place / "recipe.yaml")
    Path(file).write_text(yaml.safe_dump(settings(place)))
    for words, says in {
        "sweep --at-once 1": "--at-once is 1; wanted at least 2",
        "curve --ray-address auto": "say how many",
        "run --at-once 2": "say how many there are, too",
        "run --seeds 3 --at-once 2 --processes 2": "leave --processes, --on and --workers out",
        "train --workers 2": "add --on ray",
        "train --on spark": "--on is 'spark'; wanted ray",
        "train --on ray": "--workers is None",
        "train --on ray --workers 2 --processes 2": "Ray starts its workers itself",
    }.items():
        command, *options = words.split()
        said = typed([command, file, *options, "--out", str(place / "refused")])
        assert (said.code, says in said.text) == (2, True), said.text
