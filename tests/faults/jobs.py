"""A small training job that can be started, killed and started again. A fork server pays once for imports and model."""

from __future__ import annotations

import functools
import json
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from tests.runs import tiny_runs

from tunesmith.build import TENANT, compute, feed_of, load_base, material, num_updates, start
from tunesmith.cli.going_on import going_on
from tunesmith.engine import checkpoint
from tunesmith.engine.session import Session
from tunesmith.errors import Interrupted
from tunesmith.files import cache_dir, sha256_text
from tunesmith.folder import CHECKPOINTS, RunFolder, Silent
from tunesmith.recipe import Recipe, parse
from tunesmith.teach import teach
from tunesmith.trackers.tracked import Tracked

KILLED_MODEL = os.environ.get("TUNESMITH_KILLED_MODEL", "")  # make torture: the embedded one
EVERY = 2  # updates between checkpoints
FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.warm"])


def settings(**train: Any) -> dict[str, Any]:
    """Dropout, accumulation, packing with a shared prefix, and a last update that is smaller than the others."""
    home = cache_dir() / "faults" / str(os.getpid())
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "model").exists():
        tiny_runs.model_folder(home / "model")
        tiny_runs.reply_file(home / "rows.jsonl", num=120)
    chosen = tiny_runs.settings(home / "model", home / "rows.jsonl")
    chosen["adapt"]["dropout"] = 0.1
    sizes = {
        "update_tokens": 400,
        "micro_tokens": 200,
        "epochs": 3,
        "every_checkpoint": EVERY,
        "watch": 0,
        "rehearsal": False,
    }
    if KILLED_MODEL:
        chosen["model"], sizes = KILLED_MODEL, {**sizes, "max_updates": 12}
    return chosen | {"train": {**sizes, "lr": 1e-2, **train}}


@functools.cache
def world() -> tuple[Recipe, Any, Any, Any]:
    torch.set_num_threads(1)
    recipe = parse(settings())
    where = compute(recipe)
    base = load_base(recipe, where)
    return recipe, where, base, material(recipe, base)


class Events(Silent):
    """Tells another process, a letter each, of updates, and of the beginning and the end of a save."""

    def __init__(self, out: Connection | None) -> None:
        self.out = out
        self.began = -1

    def note(self, letter: bytes) -> None:
        if self.out is not None:
            os.write(self.out.fileno(), letter)

    def step(self, done: int, total: int, text: str) -> None:
        if self.began < 0:
            self.began = done

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.note(b"u")


def train(out: Path, events: Connection | None = None, *, clock: bool = False, forgets: bool = False) -> dict[str, Any]:
    """Trains in `out`, or goes on there, and tells where it began and what it ended as. `clock`: the wall clock runs
    backwards. `forgets`: a resume that loses the optimizer."""
    recipe, _, base, made = world()
    tell = Events(events)
    plain, load = checkpoint.write, checkpoint.load

    def forgetful(path: Path, session: Session, *rest: Any) -> None:
        load(path, session, *rest)
        session.tenants[TENANT].optimizer.state.clear()

    def told(folder: Path, copy: checkpoint.Checkpoint) -> Path:
        tell.note(b"s")
        path = plain(folder, copy)
        tell.note(b"e")
        return path

    if clock:
        now = time.time()
        time.time = lambda: now - 1e4 * time.monotonic()
    folder = RunFolder.open(out, tell, resume=(out / "recipe.yaml").is_file())
    folder.write_text("recipe.yaml", json.dumps(settings()))
    checkpoint.write, checkpoint.load = told, forgetful if forgets else load
    try:
        session = Session(base)
        feed = feed_of(recipe, base, made)
        state = start(recipe, session, made, num_updates(recipe, feed))
        with folder.stop, folder.stage("train"):
            teach(recipe, folder, session, made, state, feed, Tracked.of((), out, tell.say))
    finally:
        checkpoint.write, checkpoint.load = plain, load
        folder.close()
    return {"began": tell.began, **ended(out, state.num_updates)}


def ended(out: Path, num_updates: int) -> dict[str, Any]:
    """The identity of a finished job: weights, optimizer, counters and the ledger of consumed ids, by SHA-256."""
    last = out / CHECKPOINTS / checkpoint.checkpoint_name(num_updates)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [(r["update"], r.get("loss"), r.get("grad_norm"), r.get("dev_loss")) for r in rows]
    assert checkpoint.damage(last) == ""
    return {"state": json.loads((last / "manifest.json").read_text()), "curve": sha256_text(json.dumps(curve))}


def in_child(out: str, answer: Connection, events: Connection | None, options: dict[str, Any]) -> None:
    """As the command line does it: 75 for a stop after which a resume goes on."""
    try:
        with going_on("run", Path(out), quiet=True):
            answer.send(train(Path(out), events, **options))
    except Interrupted as error:
        answer.send(str(error))
        sys.exit(75)


class Job:
    """A job in a process of its own. `events` gives its letters."""

    def __init__(self, out: Path, target: Any = in_child, **options: Any) -> None:
        self.out = out
        self.answer, theirs = FORKS.Pipe(duplex=False)
        self.events, write = FORKS.Pipe(duplex=False)
        self.process: ForkServerProcess = FORKS.Process(target=target, args=(str(out), theirs, write, options))
        self.process.start()
        theirs.close()
        write.close()
        self.seen = b""

    def wait_for(self, letter: bytes, times: int) -> None:
        """Until the letter came so often, or the job is over."""
        while self.seen.count(letter) < times:
            fresh = os.read(self.events.fileno(), 1)
            if not fresh:
                return
            self.seen += fresh

    def drain(self) -> bytes:
        self.wait_for(b"\0", 1)
        return self.seen

    def end(self) -> Any:
        """What it answered; None where it was killed."""
        self.drain()
        try:
            said = self.answer.recv()
        except EOFError:
            said = None
        self.process.join(60)
        self.answer.close()
        self.events.close()
        return said


def whole(out: Path) -> dict[str, Any]:
    """A job that nobody disturbs."""
    job = Job(out)
    found = job.end()
    assert job.process.exitcode == 0, found
    return found
