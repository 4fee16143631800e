"""R5, R8, R11, R12, R13: a training that is stopped, crowded out, short of disk, or started elsewhere."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import Counted
from tests.faults.jobs import Job, train, whole

from tunesmith.cli.faults import told
from tunesmith.engine.checkpoint import newest
from tunesmith.errors import InputError
from tunesmith.folder import LOCK, RunFolder, Silent


def same(found: dict[str, Any], undisturbed: dict[str, Any]) -> bool:
    return {**found, "began": 0} == {**undisturbed, "began": 0}


@pytest.mark.parametrize(
    ("moment", "signals"),
    [
        ((b"u", 5), [signal.SIGTERM]),
        ((b"u", 6), [signal.SIGINT]),
        ((b"s", 2), [signal.SIGINT]),
        ((b"u", 5), [signal.SIGINT, signal.SIGINT]),
        ((b"s", 2), [signal.SIGTERM, signal.SIGINT]),
    ],
    ids=["SIGTERM", "SIGINT", "in a save", "twice", "twice in a save"],
)
def test_signals(
    moment: tuple[bytes, int], signals: list[int], undisturbed: dict[str, Any], out: Path, counted: Counted
) -> None:
    job = Job(out)
    job.wait_for(*moment)
    for number in signals:
        os.kill(job.process.pid or 0, number)
    said = job.end()
    assert job.process.exitcode == 75, said
    assert f"tunesmith run --out {out} --resume" in said
    path, _ = newest(out / "checkpoints")
    rows = [json.loads(line)["update"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    if len(signals) == 1:
        assert path is not None
        assert path.name.endswith(f"{max(rows):07d}"), "the update that was finished is saved"
    found = whole(out)
    assert found["began"] > 0
    assert same(found, undisturbed)
    names = " and ".join(signal.Signals(s).name for s in signals)
    counted("R11", f"{names} {'in a save' if moment[0] == b's' else 'in an update'}: exit 75, the resume is identical")


def test_two_in_one_folder(undisturbed: dict[str, Any], out: Path, counted: Counted) -> None:
    job = Job(out)
    job.wait_for(b"u", 3)
    os.kill(job.process.pid or 0, signal.SIGSTOP)  # it is there, and does nothing
    began = time.monotonic()
    for resume in (True, False):
        with pytest.raises(InputError, match=rf"is being filled by process {job.process.pid}: wait for it"):
            RunFolder.open(out, Silent(), resume=resume)
    seconds = time.monotonic() - began
    job.process.kill()
    job.drain()
    job.process.join()
    assert seconds < 4
    assert (out / LOCK).exists()  # left behind, and held by nobody
    assert same(whole(out), undisturbed)
    counted(
        "R12", "2 starts in a folder that is being filled: refused, each within 2 s; the lock of a killed one is free"
    )


def test_odd_clocks(undisturbed: dict[str, Any], out: Path, counted: Counted) -> None:
    job = Job(out, clock=True)
    job.wait_for(b"u", 7)
    job.process.kill()
    job.drain()
    job.process.join()
    rng = random.Random(0)
    for path in out.rglob("*"):
        os.utime(path, (rng.randrange(2**32), rng.randrange(2**32)))
    job = Job(out, clock=True)
    found = job.end()
    assert found["began"] > 0
    assert same(found, undisturbed)
    counted("R13", "a clock that runs backwards, a kill, all times of files scrambled: identical")


def test_hash_seed_folder_and_locale(undisturbed: dict[str, Any], tmp_path: Path, counted: Counted) -> None:
    """Three runs in all, with the undisturbed one."""
    started = []
    for number, (seed, locale) in enumerate((("1", "tr_TR.UTF-8"), ("4711", "C"))):
        here = tmp_path / f"Größe {number}"
        here.mkdir()
        environ = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONPATH": os.pathsep.join(sys.path)}
        code = "import sys, json; from pathlib import Path; from tests.faults.jobs import train; " \
               "print(json.dumps(train(Path(sys.argv[1]))))"  # fmt: skip
        started.append(subprocess.Popen([sys.executable, "-c", code, "a run"], cwd=here, env=environ,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))  # fmt: skip
    found = [json.loads(process.communicate(timeout=900)[0].decode().splitlines()[-1]) for process in started]
    assert all(same(f, undisturbed) for f in found)
    counted("R8", "3 runs, each with another hash seed, folder and locale: identical")


def on_a_small_disk(out: str, answer: Connection, events: Connection | None, options: dict[str, Any]) -> None:
    """A disk of its own that only this process sees: full, then read-only, then with room."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private, remount, read_only = 0x00020000, 1 << 18 | 1 << 14, 32, 1

    def mount(flags: int, data: bytes) -> bool:
        return libc.mount(b"tmpfs", out.encode(), b"tmpfs", flags, data) == 0

    Path(out).mkdir()
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None) or not mount(0, b"size=150k"):
        answer.send(None)
        return
    found: dict[str, Any] = {"said": []}
    run = Path(out) / "run"
    for flags, size in ((0, b""), (remount, b"size=150k"), (remount | read_only, b"size=150k"), (remount, b"size=64m")):
        if flags:
            assert mount(flags, size)
        try:
            found |= train(run, None)
        except OSError as error:
            found["said"].append((error.errno, told(error)[0]))
            path, skipped = newest(run / "checkpoints")
            found["kept"] = None if path is None else path.name, skipped
    answer.send(found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a disk as Linux does")
def test_a_disk_that_fills_up(undisturbed: dict[str, Any], tmp_path: Path, counted: Counted) -> None:
    found = Job(tmp_path / "disk", on_a_small_disk).end()
    if found is None:
        pytest.skip("this system lets no test mount a disk")
    numbers = [number for number, _ in found["said"]]
    assert numbers == [errno.ENOSPC, errno.ENOSPC, errno.EROFS]
    assert "the disk is full" in found["said"][0][1]
    assert found["kept"][0] is not None
    assert found["kept"][1] == []
    assert found["began"] > 0
    assert same({key: found[key] for key in undisturbed}, undisturbed)
    counted("R5", "a real disk that is full, full again, read-only, then has room: the checkpoint before stays, then "
            "identical")  # fmt: skip
