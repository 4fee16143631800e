"""The real trackers, offline: what they keep, that a resume is the same run, and that none can end a run."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import InputError, RunError
from tunesmith.trackers import tracked
from tunesmith.trackers.tracked import OPEN, Tracked
from tunesmith.trackers.wandb import mode

SETTINGS = {"recipe": {"train": {"lr": 0.001, "epochs": 2}}, "plan": [{"key": "layout", "value": "forest"}]}
SUMMARY = {"decision": "better", "effect": 0.25}
OF_THE_USER = ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def needs(name: str) -> Any:
    package, _ = OPEN[name]
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'tunesmith[{name}]'")


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No user, no settings of theirs, and no way out of this machine."""
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a tracker wanted to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


def twice(name: str, folder: Path) -> tuple[str, str, list[str]]:
    """A run that was stopped after update 3 and went on from 2; the run's ids, and what was said."""
    said: list[str] = []
    with Tracked.of([name], folder, said.append) as stopped:
        stopped.start("first", SETTINGS)
        before = stopped.live[name].run_id
        for update, loss in ((1, 3.0), (2, 2.5), (3, 9.0)):
            stopped.log(update, {"update": update, "loss": loss})
    with Tracked.of([name], folder, said.append) as gone_on:
        gone_on.start("first", SETTINGS)
        after = gone_on.live[name].run_id
        for update, loss in ((3, 2.0), (4, 1.5)):
            gone_on.log(update, {"update": update, "loss": loss})
        gone_on.end(SUMMARY)
    assert gone_on.failed == {}
    assert not any(line.startswith("WARNING") for line in said), said
    return before, after, said


@needs("tensorboard")
def test_tensorboard_keeps_event_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before, after, _ = twice("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert before == after
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.5)]
    assert [e.value for e in found.Scalars("verdict/effect")] == [0.25]
    assert '"lr": 0.001' in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


@needs("mlflow")
def test_mlflow_keeps_files_in_the_run_folder(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    before, after, _ = twice("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    run = client.get_run(after)
    assert before == after
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.train.lr"] == "0.001"
    assert run.data.metrics["verdict/effect"] == 0.25
    assert run.data.tags["verdict/decision"] == "better"
    assert {m.step: m.value for m in client.get_metric_history(after, "loss")} == {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5}
    assert len(client.search_runs([run.info.experiment_id])) == 1


def payload(log: bytes) -> bytes:
    """What a .wandb file holds: LevelDB's log format, blocks of 32 KiB whose chunks have a head of 7 bytes."""
    at, found = 7, b""
    while at + 7 <= len(log):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length = int.from_bytes(log[at + 4 : at + 6], "little")
        found += log[at + 7 : at + 7 + length]
        at += 7 + length
    return found


@needs("wandb")
def test_wandb_is_offline_unless_its_user_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    assert mode() == "offline"
    before, after, said = twice("wandb", tmp_path)
    wandb.teardown()  # its service writes the end of a file after a run has finished; the process waits for that
    assert before == after
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{after}"))
    assert folders
    assert all(list(folder.glob("*.wandb")) for folder in folders)
    assert any("wandb sync" in line for line in said)
    kept = b"".join(payload(f.read_bytes()) for folder in folders for f in folder.glob("*.wandb"))
    assert b"loss" in kept
    assert b"verdict/effect" in kept
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "x" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert mode() == "online"


@needs("trackio")
def test_trackio_keeps_a_local_project(tmp_path: Path) -> None:
    """In a process of its own, as trackio reads its folder when it is imported."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.unit.test_trackers import twice
print(*twice("trackio", Path({str(tmp_path)!r}))[:2])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split()[-2:]
    assert before == after
    [database] = list((tmp_path / "trackio").glob("*.db"))
    with sqlite3.connect(database) as store:
        rows = store.execute("select step, metrics from metrics where run_name = ? order by id", (after,)).fetchall()
    logged = [(step, json.loads(metrics)) for step, metrics in rows]
    assert {step: m["loss"] for step, m in logged if "loss" in m} == {1: 3.0, 2: 2.5, 3: 2.0, 4: 1.5}
    assert any(m.get("verdict/effect") == 0.25 for _, m in logged)


def test_a_package_that_is_missing_is_said_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPEN, "wandb", ("no_such_package", OPEN["wandb"][1]))
    with pytest.raises(InputError, match=r"wandb.*not installed.*tunesmith\[wandb\]"):
        Tracked.of(["wandb"], tmp_path, print)


@needs("mlflow")
def test_a_tracker_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "store").as_uri())
    with (
        Tracked.of(["mlflow"], tmp_path, print) as asked,
        pytest.raises(RunError, match=r"mlflow did not start.*nothing was trained"),
    ):
        asked.start("first", SETTINGS)
    assert not (tmp_path / tracked.NAME).exists()


class Full:
    """Stands for the outside: a tracker whose disk is full from update 2 on."""

    run_id, place = "1", "nowhere"

    def __init__(self, asked: object) -> None:
        self.rows: list[int] = []

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        if update >= 2:
            raise OSError("no space left on device")
        self.rows.append(update)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        raise AssertionError("a tracker that failed is not asked again")


def test_a_tracker_that_fails_midway_is_said_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPEN, "wandb", ("json", Full))
    said: list[str] = []
    with Tracked.of(["wandb"], tmp_path, said.append) as asked:
        asked.start("first", SETTINGS)
        for update in range(1, 5):
            asked.log(update, {"loss": 1.0})
        asked.end(SUMMARY)
    loud = [line for line in said if line.startswith("WARNING")]
    assert len(loud) == 2
    assert all("wandb failed at update 2 (OSError: no space left on device)" in line for line in loud)
    assert "the run goes on" in loud[0]
    assert "metrics.jsonl has everything" in loud[1]


def test_no_tracker_needs_no_file(tmp_path: Path) -> None:
    with Tracked.of([], tmp_path, print) as asked:
        asked.start("first", {})
        asked.log(1, {"loss": 1.0})
        asked.end(SUMMARY)
    assert os.listdir(tmp_path) == []
