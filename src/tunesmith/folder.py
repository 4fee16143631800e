"""A run folder while it is being filled: stages with their time and budget, and what is kept of each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
from filelock import FileLock, Timeout

from tunesmith import lineage
from tunesmith.answered import Sitting
from tunesmith.deaths import WORKING, working
from tunesmith.engine.ranks import ALONE, Ranks, is_launched
from tunesmith.errors import InputError
from tunesmith.files import read_json, sha256_text, sweep, write_json, write_text
from tunesmith.stopping import Stop

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
LOGS = "logs"  # of each of several processes
LOCK = ".lock"
PROCESS = "process.json"  # by it `tunesmith runs` tells a run that is on from one that was stopped


class Teller(Protocol):
    """Where a run says what it does. The command line prints; a program may listen."""

    def stage(self, name: str, budget_s: float | None) -> None: ...
    def step(self, done: int, total: int, text: str) -> None: ...  # of one long step; told where it begins, and again
    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None: ...  # a row of metrics.jsonl
    def say(self, text: str) -> None: ...
    def understood(self, facts: Mapping[str, Any]) -> None: ...  # of data/understood.py, before anything runs


class Silent:
    """Says nothing."""

    def stage(self, name: str, budget_s: float | None) -> None:
        return

    def step(self, done: int, total: int, text: str) -> None:
        return

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        return

    def say(self, text: str) -> None:
        return

    def understood(self, facts: Mapping[str, Any]) -> None:
        return


def this_process() -> dict[str, Any]:
    """Who fills a folder: a process number alone is used again, with its start it is not."""
    host, began_s = sha256_text(platform.node())[:12], psutil.Process().create_time()
    return {"host": host, "pid": os.getpid(), "began_s": began_s, "launcher": launcher()}


def launcher() -> str:
    """Who started this process and would start it again: torchrun's agent, which outlives its processes; "" of none."""
    if not is_launched():
        return ""
    agent = psutil.Process(os.getppid())
    return f"{sha256_text(platform.node())[:12]} {agent.pid} {agent.create_time()}"


def is_started_again(path: Path) -> bool:
    """Whether this launch has filled the run's folder before. torch counts new starts only where the process was lost
    on the same machine as this one."""
    whole = path / PROCESS
    known = json.loads(whole.read_text(encoding="utf-8")).get("launcher") if whole.is_file() else None
    return bool(known) and known == launcher()


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    info = psutil.Process().memory_info()
    return max(info.rss, getattr(info, "peak_wset", 0), _high_water()) / 2**30


def _high_water() -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    line = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(line.split()[1]) * 1024


def refuse_files(path: Path) -> None:
    """InputError where a new run would find files."""
    if path.is_dir() and any(p.name != LOCK for p in path.iterdir()):
        has_run = (path / "recipe.yaml").is_file()
        way = "add --resume to go on with it, or" if has_run else "it holds other files;"
        raise InputError(f"{path} is not empty: {way} name another folder with --out")


def held(path: Path, tell: Teller) -> FileLock:
    """A lock on the folder, which the system lets go of when the process ends, however it ends: none is ever stale."""
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process = path / PROCESS
        who = read_json(process) if process.is_file() else {}
        named = f"process {who['pid']}" if "pid" in who else "another process"
        raise InputError(
            f"{path} is being filled by {named}: wait for it, stop it (it saves first), or name another --out"
        ) from None
    except NotImplementedError:
        tell.say(f"{path} is on a file system without locks: see to it that no second process fills the same folder")
    return lock


@dataclass(slots=True)
class RunFolder:
    """`path` and the stages run so far. Opened once by one process."""

    path: Path
    tell: Teller
    stop: Stop
    stages: list[dict[str, Any]] = field(default_factory=list)
    budgets: Mapping[str, float] = field(default_factory=dict)  # seconds a stage should take, where somebody says so
    was_there: bool = True  # before this run
    died: dict[str, Any] | None = None  # of the last process, where it was killed: its stage, and what deaths.py counts
    ranks: Ranks = ALONE  # who trains; this process leads them
    lock: FileLock | None = None  # held as long as the folder is filled

    @classmethod
    def open(cls, path: Path, tell: Teller, *, resume: bool) -> RunFolder:
        """A new folder, or with `resume` one that a run left. Raises InputError when it belongs to somebody else."""
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; --out wants a folder that is new, or one to --resume")
        if resume and not (path / "recipe.yaml").is_file():
            raise InputError(f"{path} holds no run to resume (no recipe.yaml); leave --resume out to start one there")
        if (path / LOCK).exists():
            held(path, Silent()).release()  # what there is to say of it is said below
        if not resume:
            refuse_files(path)
        was_there = path.exists()
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, tell, Stop(tell.say), was_there=was_there, lock=held(path, tell))
        try:
            if not resume:
                refuse_files(path)  # two may have found it empty
        except InputError:
            folder.close()
            raise
        sweep(path)
        folder.died = folder.read(WORKING)
        folder.write(PROCESS, this_process())
        lineage.begin(path)
        if resume and (kept := folder.read("cost.json")):
            folder.stages = list(kept["stages"])
        return folder

    def close(self) -> None:
        """This process ends by itself; another may fill the folder."""
        (self.path / WORKING).unlink(missing_ok=True)
        if self.lock is not None:
            self.lock.release()

    def take_back(self) -> None:
        """Undo the opening of a new folder, so that the command can be typed again with the mistake mended. Where
        something was done in it already (the lock is there), it stays."""
        if (self.path / "lock.json").is_file():
            return
        for inner in self.path.iterdir():
            shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        if not self.was_there:
            self.path.rmdir()

    @contextmanager
    def stage(self, name: str, budget_s: float | None = None) -> Iterator[None]:
        """Times what is done inside; cost.json is true after each stage. Budgets are shown, not enforced."""
        budget_s = self.budgets.get(name, budget_s)
        self.tell.stage(name, budget_s)
        self.write(WORKING, working(name))
        began = time.monotonic()
        row: dict[str, Any] = {"name": name, "seconds": 0.0, "budget_s": budget_s}
        try:
            yield
        except BaseException as error:
            row["stopped_by"] = f"{type(error).__name__}: {error}"  # what `tunesmith runs` says of it
            raise
        finally:
            self.stages.append({**row, "seconds": round(time.monotonic() - began, 2)})
            self.write("cost.json", self.cost())

    def cost(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"stages": self.stages, "total_s": round(sum(s["seconds"] for s in self.stages), 2)}
        rows = [r for r in self.metrics() if "tokens" in r]
        if rows:
            tokens = sum(r["tokens"] for r in rows)
            seconds = sum(r["tokens"] / r["tokens_per_s"] for r in rows)
            facts |= {"train_tokens": tokens, "tokens_per_s": tokens / seconds}
        return facts | {"peak_gib": round(peak_gib(), 2)}

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """One long thing of which nothing is known but that it takes a while."""
        self.tell.step(0, 1, text)
        yield
        self.tell.step(1, 1, text)

    def sitting(self, name: str, text: str, first: int = 0, total: int | None = None) -> Sitting:
        """One asking, kept under scores/ while it lasts. `first` and `total`: its place in a longer row."""

        def progress(done: int, of: int) -> None:
            self.tell.step(first + done, of if total is None else total, text)

        def between() -> None:
            self.stop.check(f"stopped between two batches of answers ({text}), which are kept")

        return Sitting(progress, self.path / "scores" / f"partial_{name}.jsonl", between)

    def write(self, name: str, facts: Any) -> None:
        write_json(self.path / name, facts)

    def read(self, name: str) -> Any:
        """The facts kept under this name; None where there are none."""
        path = self.path / name
        return read_json(path) if path.is_file() else None

    def write_text(self, name: str, text: str) -> None:
        write_text(self.path / name, text)

    def metrics(self) -> list[dict[str, Any]]:
        return self.lines(METRICS)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file of JSON lines; half a line, of a write that was cut off, is left out."""
        path = self.path / name
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def forget_after(self, name: str, update: int) -> None:
        """Before a resume: rows of updates that will be made again are taken out."""
        if (self.path / name).is_file():
            rows = [r for r in self.lines(name) if r["update"] <= update]
            self.write_text(name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))

    def add_lines(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as out:
            out.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            out.flush()
            os.fsync(out.fileno())
