"""A process of several is killed, stopped, killed again: the run goes on from its last checkpoint by itself."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file
from tests.faults import jobs
from tests.faults.conftest import Counted
from tests.faults.launched import command

from tunesmith.engine import checkpoint
from tunesmith.folder import CHECKPOINTS, METRICS, PROCESS
from tunesmith.launch.elastic import SHUTDOWN, launched

PATIENCE_S, GRACE_S = 4, 1
FAULTS = (("follower", signal.SIGKILL), ("follower", signal.SIGSTOP), ("leader", signal.SIGKILL))


class Saboteur(threading.Thread):
    """Does one fault after another, each when some updates were made since the processes were started."""

    def __init__(self, out: Path, faults: Sequence[tuple[str, signal.Signals]] = FAULTS) -> None:
        super().__init__(daemon=True)
        self.out, self.faults, self.silent_s = out, faults, 0.0
        self.took_s: list[float] = []
        self.rows: list[int] = []

    def followers(self) -> list[int]:
        path = self.out / "logs" / "rank_1.log"
        return [int(n) for n in re.findall(r" process (\d+) on ", path.read_text())] if path.is_file() else []

    def num_rows(self) -> int:
        path = self.out / METRICS
        return path.read_text().count('"loss"') if path.is_file() else 0

    def run(self) -> None:
        for number, (who, what) in enumerate(self.faults):
            while len(self.followers()) <= number:
                time.sleep(0.01)
            before = self.num_rows()
            while self.num_rows() < before + jobs.EVERY + 1:
                time.sleep(0.002)
            leader: int = json.loads((self.out / PROCESS).read_text())["pid"]
            os.kill(leader if who == "leader" else self.followers()[-1], what)
            began, self.rows = time.monotonic(), [*self.rows, self.num_rows()]
            if what == signal.SIGSTOP:  # until the leader has given up; then it can hear that it shall end
                psutil.wait_procs([psutil.Process(leader)], timeout=10 * PATIENCE_S)
                self.silent_s = time.monotonic() - began
                os.kill(self.followers()[-1], signal.SIGCONT)
            while len(self.followers()) <= number + 1:
                time.sleep(0.01)
            self.took_s.append(time.monotonic() - began)


def trained(num: int, out: Path) -> int:
    launch = out.with_name(f"launch_{num}")
    launch.mkdir()
    words = (str(out), str(launch), str(PATIENCE_S), str(out.with_name("recipe.yaml")))
    return launched(launch, num, command, words, method="forkserver")


def last_state(out: Path, update: int) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = out / CHECKPOINTS / checkpoint.checkpoint_name(update)
    assert checkpoint.damage(folder) == ""
    return load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())


@pytest.mark.parametrize(("parallel", "faults"), [("ddp", FAULTS), ("fsdp", FAULTS[1:2])])
def test_a_lost_process_is_noticed_and_started_again(
    parallel: str, faults: Sequence[tuple[str, signal.Signals]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    counted: Counted,
) -> None:  # fmt: skip
    """Killed: noticed at once. Stopped: within the patience and the grace, also in the middle of a pass whose weights
    are spread. What is left is that of one process that nothing happened to: every update once, the same examples, the
    same weights but for rounding."""
    settings = jobs.settings(epochs=12, micro_tokens=120, parallel=parallel)
    monkeypatch.setattr(jobs, "settings", lambda: settings)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv(SHUTDOWN, str(GRACE_S))
    out = tmp_path / "run"
    saboteur = Saboteur(out, faults)
    saboteur.start()
    code = trained(2, out)
    said = (tmp_path / "said.log").read_text()
    assert code == 0, said
    assert len(saboteur.took_s) == len(faults), said
    rows = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    updates = [row["update"] for row in rows if "loss" in row]
    assert updates == list(range(1, len(updates) + 1))
    assert 0.5 * PATIENCE_S < saboteur.silent_s < 3 * PATIENCE_S, "noticed by its silence"
    assert min(saboteur.rows) > jobs.EVERY
    assert said.count("going on from update_") == len(faults)

    from_one = tmp_path / "one"
    assert trained(1, from_one) == 0
    (mine, facts), (wanted, undisturbed) = (last_state(folder, updates[-1]) for folder in (out, from_one))
    assert facts["feed"] == undisturbed["feed"]
    apart = max(float((mine[n] - wanted[n]).abs().max() / wanted[n].abs().max().clamp_min(1e-6)) for n in mine)
    assert apart < 1e-2
    done = ", ".join(f"{who} {what.name}" for who, what in faults)
    counted("ranks", f"{len(faults)} processes lost ({parallel}): noticed and started again after "
            f"{', '.join(f'{s:.1f} s' for s in saboteur.took_s)} ({done})")  # fmt: skip
