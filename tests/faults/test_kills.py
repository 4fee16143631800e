"""R1: killed anywhere, a run goes on to the bits of one that was never killed."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from tests.faults.conftest import Counted
from tests.faults.jobs import EVERY, KILLED_MODEL, Job, whole

NUM_KILLS = int(os.environ.get("TUNESMITH_KILLS", "20"))  # make torture: 299


def killed(out: Path, rng: random.Random, num_updates: int, *, in_save: bool) -> tuple[bool, bool]:
    """(was it inside a save, was it between the first and the last checkpoint)."""
    job = Job(out)
    num_saves = num_updates // EVERY
    if in_save:
        job.wait_for(b"s", rng.randint(2, num_saves - 2))
    else:
        job.wait_for(b"u", rng.randint(EVERY + 1, num_updates - EVERY))
    slower = 100 if KILLED_MODEL else 1
    time.sleep(rng.random() * slower * (0.003 if in_save else 0.02))
    job.process.kill()
    seen = job.drain()
    job.process.join()
    return seen.count(b"s") > seen.count(b"e"), seen.count(b"e") >= 1 and seen.count(b"u") < num_updates


def test_kill_9_at_random_times(undisturbed: dict[str, Any], tmp_path: Path, counted: Counted) -> None:
    rng = random.Random(2026)
    num_updates = updates_of(tmp_path / "count")
    inside = between = identical = late = 0
    for number in range(NUM_KILLS):
        out = tmp_path / f"kill_{number}"
        was_inside, was_between = killed(out, rng, num_updates, in_save=number % 10 < 7)
        inside, between = inside + was_inside, between + was_between
        found = whole(out)
        late += found.pop("began") > 0
        identical += found == {k: v for k, v in undisturbed.items() if k != "began"}
    counted(
        "R1",
        f"{NUM_KILLS} kills -9, {inside} inside a save, {between} between the first and the last checkpoint; {late} "
        f"resumed after update 0, {identical} ended with identical weights, optimizer, ledger and curve",
    )
    assert identical == NUM_KILLS
    assert inside >= 0.4 * NUM_KILLS
    assert min(between, late) >= 0.9 * NUM_KILLS


def updates_of(out: Path) -> int:
    whole(out)
    return max(json.loads(line)["update"] for line in (out / "metrics.jsonl").read_text().splitlines())


def test_mutant_a_resume_that_forgets_the_optimizer_is_seen(undisturbed: dict[str, Any], out: Path) -> None:
    """What R1 compares has the optimizer in it, and the weights that follow from it."""
    job = Job(out)
    job.wait_for(b"e", 2)
    job.process.kill()
    job.drain()
    job.process.join()
    found = Job(out, forgets=True).end()
    assert found["began"] > 0
    assert {**found, "began": 0} != {**undisturbed, "began": 0}
