"""The processes of a run that train with it: the leader's run goes on as if it were alone, the others follow it.

A follower loads the base by itself, is given the tenant as it stands, and does what the leader's session does until the
training ends; then it waits for the next one. All that it prints goes to a file of its own in the run's folder.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunesmith import probing
from tunesmith.build import DTYPES, TENANT, Compute, load_base
from tunesmith.engine import ranks as processes
from tunesmith.engine.cuts import Cuts
from tunesmith.engine.dealing import cost_of, share_of_longest
from tunesmith.engine.memory import Freed, give_back_freed_memory
from tunesmith.engine.ranks import ALONE, LEAVE, REST, Group, Ranks, obey
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import LostRank, RunError
from tunesmith.folder import LOGS, RunFolder, Teller
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe
from tunesmith.roles import Foretold
from tunesmith.rollouts.draws import Draws
from tunesmith.speeds import session_on

ENLIST = "enlist"


@dataclass(frozen=True, slots=True)
class Orders:
    """What a follower needs to become one."""

    logs: Path
    recipe: Recipe  # with nothing left open
    precision: str
    digest: str  # of the base
    freed: Freed
    spec: Spec
    head: Mapping[str, torch.Tensor] | None  # that a new class head began with
    is_sharded: bool


@contextmanager
def joined() -> Iterator[Ranks]:
    """The leader's side of a command. Another rank follows inside, and its process ends there."""
    ranks = processes.join()
    try:
        if isinstance(ranks, Group) and ranks.rank:
            follow(ranks)
            raise SystemExit(0)
        yield ranks
        ranks.dismiss()
    except LostRank:
        raise
    except BaseException:
        ranks.dismiss()
        raise
    finally:
        processes.part()


def follow(ranks: Group) -> None:
    """Until the leader lets go."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person stops the leader, and it the others
    verb = ""
    while verb != LEAVE:
        verb, words = ranks.heard()
        if verb == ENLIST:
            verb = obey(ranks, enlisted(ranks, *words))
            gc.collect()
            give_back_freed_memory()


def enlisted(ranks: Ranks, orders: Orders) -> Session:
    """A session like the leader's, with its tenant. RunError where the base is another one here."""
    log_into(orders.logs / f"rank_{ranks.rank}.log")
    torch.set_num_threads(threads_each(ranks.beside))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = Compute(device, "", DTYPES[orders.precision], "")
    base = load_base(orders.recipe, where, learns=True)
    if base.digest != orders.digest:
        raise RunError(
            f"{orders.recipe.model} is another model on {socket.gethostname()} (digest {base.digest[:12]}) than where "
            f"the run is led ({orders.digest[:12]}): give each machine the same files"
        )
    if orders.head is not None:
        probing.put_head(base, orders.head)
    session = session_on(base, orders.recipe.train, Cuts(), orders.freed)
    session.create(TENANT, replace(orders.spec, teacher=base.teacher))
    session.ranks = ranks
    if orders.is_sharded:
        session.spread(TENANT)
        forget_whole(session)
    return session


def forget_whole(session: Session) -> None:
    """The base, which nobody asks here: its part of it is enough."""
    for slot in session.slots.values():
        slot.live, slot.neutral = {}, {}
    session.base.model.to(device=torch.device("meta"))  # type: ignore[call-arg]
    give_back_freed_memory()


@contextmanager
def at_work(ranks: Ranks, folder: RunFolder, recipe: Recipe, session: Session) -> Iterator[None]:
    """Inside, what the session learns is shared between all ranks. `recipe`: with nothing left open."""
    if ranks.size == 1:
        yield
        return
    threads, spec = torch.get_num_threads(), session.tenants[TENANT].spec
    assert spec.reference is None, "a follower's reference is the base"
    is_sharded = recipe.train.parallel == "fsdp"
    orders = Orders(
        folder.path / LOGS, recipe, str(session.base.model.dtype).removeprefix("torch."), session.base.digest,
        session.freed, replace(spec, teacher=None), head_of(session.base, folder), is_sharded,
    )  # fmt: skip
    tensors, facts = session.save_state(TENANT)
    try:
        torch.set_num_threads(threads_each(ranks.beside))
        with folder.doing("the model loaded by the other processes"):
            with ranks.all(ENLIST, orders):
                session.ranks = ranks
                if is_sharded:
                    session.spread(TENANT)
            session.load_state(TENANT, tensors, facts)
        del tensors
        yield
    finally:
        if is_sharded and session.learner.is_sharded and not ranks.is_broken:
            with folder.doing("weights gathered"):
                session.gather(TENANT)
        session.ranks = ALONE
        torch.set_num_threads(threads)
        ranks.dismiss(REST)


def learning(folder: RunFolder, recipe: Recipe) -> Callable[[Session], AbstractContextManager[None]]:
    """For what is tried beforehand: with the other ranks where one process alone could not hold what learning takes."""
    is_sharded = recipe.train.parallel == "fsdp"
    return lambda session: at_work(folder.ranks, folder, recipe, session) if is_sharded else nullcontext()


class Logged:
    """Tells, and adds to a file what was told, as all that the other ranks print is added to theirs."""

    def __init__(self, tell: Teller, path: Path) -> None:
        self.tell, self.path = tell, path
        self.has_begun = False  # before that the folder may be another's

    def note(self, text: str) -> None:
        self.has_begun = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def stage(self, name: str, budget_s: float | None) -> None:
        self.note(name)
        self.tell.stage(name, budget_s)

    def step(self, done: int, total: int, text: str) -> None:
        if done == total:
            self.note(f"{text}: {total}")
        self.tell.step(done, total, text)

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.note(f"update {update} of {num_updates}: {', '.join(f'{k} {v:.6g}' for k, v in facts.items())}")
        self.tell.updated(update, num_updates, facts)

    def say(self, text: str) -> None:
        self.note(text)
        self.tell.say(text)

    def understood(self, facts: Mapping[str, Any]) -> None:
        self.tell.understood(facts)


@contextmanager
def logged(tell: Teller, ranks: Ranks, run: Path) -> Iterator[Teller]:
    """Where there are several processes, what the leader says is kept too, and what it ends with."""
    if ranks.size == 1:
        yield tell
        return
    log = Logged(tell, run / LOGS / f"rank_{ranks.rank}.log")
    try:
        yield log
    except BaseException as error:
        if log.has_begun and run.is_dir():
            log.note(f"ended by {type(error).__name__}: {error}")
        raise


def share(where: Compute, base: Base, feed: Foretold) -> float:
    """Of an update's passes, those that are made one after another, in the time that one takes when it has a whole GPU,
    or all threads of a machine: processes on one processor share its threads."""
    if where.processes == 1:
        return 1.0
    costs = list(map(cost_of(base), feed.heaviest()))
    return share_of_longest(costs, where.processes) * (where.beside if where.device == "cpu" else 1)


def rows(where: Compute, base: Base, feed: Foretold) -> list[tuple[str, object, str]]:
    """Of the plan."""
    if where.processes == 1:
        return []
    costs = list(map(cost_of(base), feed.heaviest()))
    busiest = share_of_longest(costs, where.processes)
    why = f"of an update's {len(costs)} micro-batches the busiest does {busiest:.0%} of the work"
    if len(costs) < where.processes:
        why += "; some have nothing to do: more train.update_tokens or fewer train.micro_tokens would change that"
    if isinstance(feed, Draws):
        why += "; replies are sampled by the first alone"
    return [("processes", where.processes, why)]


def head_of(base: Base, folder: RunFolder) -> Mapping[str, torch.Tensor] | None:
    return load_file(folder.path / probing.NAME) if base.fresh else None


def threads_each(beside: int) -> int:
    """Of this machine's, for each of the processes that are on it."""
    return max(1, torch.get_num_threads() // beside)


def log_into(path: Path) -> None:
    """From now on all that this process prints, its libraries included, is added to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} on {socket.gethostname()}\n")
        log.flush()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
