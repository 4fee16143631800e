"""What several processes learn together, over torch.distributed: one leads, the others do what it does, and sums pass.

The leader (rank 0) alone reads data, draws, decides and writes. It says each verb of its session to the others, which
do the same with their part of the micro-batches; so all hold the same tenant, and its code is that of one process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tunesmith.engine.dealing import Share, cost_of, shares
from tunesmith.errors import InputError, LostRank, NotFinite, Overflow
from tunesmith.models.load import Base
from tunesmith.types import Forest, Ratio

PATIENCE = "TUNESMITH_RANK_TIMEOUT_S"
PATIENCE_S = 600.0  # without a word of another rank, until it counts as lost
START_S = 600.0  # until all have started
BUCKET = 2**24  # numbers that are added up at once
BEAT, REST, LEAVE = "beat", "rest", "leave"


class Ranks:
    """One process: nothing passes."""

    rank, size = 0, 1
    beside = 1  # of them on this machine
    is_broken = False  # left in the middle of a verb: no word can pass any more
    told: Mapping[str, float] = MappingProxyType({})  # of the last update, for people

    def all(self, verb: str, *words: Any) -> AbstractContextManager[None]:
        """Inside, every rank does this verb of the session."""
        return nullcontext()

    def dealt(self, batches: Sequence[Forest], base: Base, *, pads: bool = False) -> Share:
        """My part of the micro-batches, which the leader alone knows. `pads`: all make as many passes."""
        return Share(tuple(range(len(batches))), list(batches))

    def keys(self, share: Share, num: int) -> Sequence[object]:
        """What a library's own noise is keyed by in each of the `num` micro-batches that memory made of these."""
        return range(num)

    def summed(self, gradients: dict[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Over all ranks; `gradients` is used up. `like`: every tensor that may have one."""
        return gradients

    def totals(self, stats: dict[str, Ratio], seconds: float) -> dict[str, Ratio]:
        """Over all ranks, on the leader. `seconds`: that mine took."""
        return stats

    def rows(self, rows: Sequence[Tensor]) -> tuple[Tensor, int]:
        """(those of all micro-batches of all ranks, where mine begin)."""
        return torch.cat(list(rows)), 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """In place, over all ranks."""
        return tensor

    def each(self, claim: bool) -> bool:
        """Whether it is true on every rank."""
        return claim

    def given(self, tensors: Mapping[str, Tensor], part: Callable[[str, Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Of each of the leader's, by its name, my part."""
        return tensors

    def dismiss(self, verb: str = LEAVE) -> None:
        """A verb that nothing waits for: the others stop, or leave."""
        return


ALONE = Ranks()


@dataclass(frozen=True, slots=True)
class Again:
    """Stands for the very object that stood in the same place of the last such verb."""


class Group(Ranks):
    """Several processes. Who says nothing for `patience_s` while it is waited for is lost; a leader that is busy with
    other things says so."""

    def __init__(self, patience_s: float) -> None:
        self.rank, self.size, self.patience_s = dist.get_rank(), dist.get_world_size(), patience_s
        with self._passing():
            self.group = dist.new_group(timeout=timedelta(seconds=patience_s))
        self.beside = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._said: dict[str, tuple[Any, ...]] = {}
        self._lock, self._ended = threading.RLock(), threading.Event()
        if self.rank == 0:
            threading.Thread(target=self._beat, name="beat", daemon=True).start()

    # -- words --------------------------------------------------------------------------------------------------

    @contextmanager
    def all(self, verb: str, *words: Any) -> Iterator[None]:
        if self.rank:  # it was told, and does it
            yield
            return
        with self._lock:  # no beat in between
            self._say(verb, words)
            try:
                yield
            except (NotFinite, Overflow):  # found in what is the same on all ranks
                raise
            except BaseException:
                self.is_broken = True
                raise

    def heard(self) -> tuple[str, tuple[Any, ...]]:
        """The next verb of the leader and its words; waits for it."""
        box: list[Any] = [None]
        with self._passing():
            dist.broadcast_object_list(box, src=0, group=self.group)
        verb, words = box[0]
        known = self._said.get(verb, ())
        words = tuple(known[k] if isinstance(word, Again) else word for k, word in enumerate(words))
        self._said[verb] = words
        return verb, words

    def _say(self, verb: str, words: tuple[Any, ...]) -> None:
        if self.is_broken:
            raise LostRank("another process of this run is gone")
        known = self._said.get(verb, ())
        short = tuple(Again() if k < len(known) and known[k] is word else word for k, word in enumerate(words))
        self._said[verb] = words
        with self._passing():
            dist.broadcast_object_list([(verb, short)], src=0, group=self.group)

    def _beat(self) -> None:
        """So that the others can tell a leader that works at something else from one that is gone."""
        while not self._ended.wait(self.patience_s / 3):
            with self._lock:
                if self.is_broken or self._ended.is_set():
                    return
                try:
                    self._say(BEAT, ())
                except LostRank:  # said with the next verb
                    self.is_broken = True
                    return

    def dismiss(self, verb: str = LEAVE) -> None:
        with self._lock:
            if self.rank == 0 and not self.is_broken:
                self._say(verb, ())
            if verb == LEAVE:
                self._ended.set()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """torch says in a RuntimeError that another rank is gone, or has not answered in time."""
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Passes that talk to other ranks in between; what else goes wrong in them stays as it is."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise self.lost(error) from error
            raise

    def lost(self, error: RuntimeError) -> LostRank:
        self.is_broken = True
        said = str(error).splitlines()[0]
        return LostRank(
            f"another process of this run is gone, or gave no answer for {self.patience_s:g} s ({said}). The last "
            f"whole checkpoint is kept. Where an update takes longer than that: {PATIENCE} says how long to wait"
        )

    # -- tensors ------------------------------------------------------------------------------------------------

    def dealt(self, batches: Sequence[Forest], base: Base, *, pads: bool = False) -> Share:
        parts: list[Share] | None = None
        if self.rank == 0:
            parts = shares(list(map(cost_of(base), batches)), batches, self.size, pads=pads)
        mine: list[Any] = [None]
        with self._passing():
            dist.scatter_object_list(mine, parts, src=0, group=self.group)
        share: Share = mine[0]
        return share

    def keys(self, share: Share, num: int) -> Sequence[object]:
        return share.numbers if num == len(share.numbers) else [f"{share.numbers[0]}.{k}" for k in range(num)]

    def summed(self, gradients: dict[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = sorted(like)
        is_there = torch.tensor([name in gradients for name in names], dtype=torch.uint8)
        with self._passing():
            dist.all_reduce(is_there, dist.ReduceOp.MAX, group=self.group)
        found: dict[str, Tensor] = {}
        for some in buckets({n: like[n].numel() for n, yes in zip(names, is_there.tolist()) if yes}):
            mine = [
                gradients.pop(n).reshape(-1) if n in gradients else torch.zeros_like(like[n]).reshape(-1) for n in some
            ]
            both = self.sum_(torch.cat(mine))
            pieces = both.split([like[n].numel() for n in some])
            found |= {n: piece.view_as(like[n]) for n, piece in zip(some, pieces)}
        return found

    def totals(self, stats: dict[str, Ratio], seconds: float) -> dict[str, Ratio]:
        mine = {name: (float(ratio.num), float(ratio.den)) for name, ratio in stats.items()}
        every: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with self._passing():
            dist.gather_object((mine, seconds), every, dst=0, group=self.group)
        if every is None:
            return stats
        found: dict[str, Ratio] = {}
        for name, (num, den) in (item for sums, _ in every for item in sums.items()):
            one = Ratio(torch.tensor(num, dtype=torch.float64), torch.tensor(den, dtype=torch.float64))
            found[name] = found[name] + one if name in found else one
        took = [s for _, s in every]
        self.told = {"imbalance": max(took) * self.size / max(sum(took), 1e-9)}
        return found

    def rows(self, rows: Sequence[Tensor]) -> tuple[Tensor, int]:
        every: list[Any] = [None] * self.size
        with self._passing():
            dist.all_gather_object(every, [r.detach().cpu() for r in rows], group=self.group)
        first = sum(len(r) for part in every[: self.rank] for r in part)
        both = torch.cat([r for part in every for r in part])
        return both.to(rows[0].device) if rows else both, first

    def gathered(self, flat: Tensor) -> Tensor | None:
        """[ranks, len(flat)] of all, on the leader."""
        every = [torch.empty_like(flat) for _ in range(self.size)] if self.rank == 0 else None
        with self._passing():
            dist.gather(flat, every, dst=0, group=self.group)
        return None if every is None else torch.stack(every)

    def sum_(self, tensor: Tensor) -> Tensor:
        with self._passing():
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def each(self, claim: bool) -> bool:
        mine = torch.tensor(int(claim))
        with self._passing():
            dist.all_reduce(mine, dist.ReduceOp.MIN, group=self.group)
        return bool(mine)

    def given(self, tensors: Mapping[str, Tensor], part: Callable[[str, Tensor], Tensor]) -> Mapping[str, Tensor]:
        box: list[Any] = [[(n, t.shape, t.dtype, t.device.type) for n, t in tensors.items()]]
        found: dict[str, Tensor] = {}
        with self._passing():
            dist.broadcast_object_list(box, src=0, group=self.group)
            for name, shape, dtype, device in box[0]:
                fresh = tensors[name].contiguous() if self.rank == 0 else torch.empty(shape, dtype=dtype, device=device)
                dist.broadcast(fresh, src=0, group=self.group)
                found[name] = part(name, fresh)
        return found


def obey(group: Group, session: Any) -> str:
    """Do what the leader's session does, until it rests or leaves. What is wrong with an update, each rank finds, and
    the leader decides."""
    while (said := group.heard())[0] not in (REST, LEAVE):
        verb, words = said
        if verb == BEAT:
            continue
        try:
            getattr(session, verb)(*words)
        except (NotFinite, Overflow) as error:
            sys.stderr.write(f"{verb}: {error}\n")
    return said[0]


def buckets(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """In their order, each of at most BUCKET numbers unless one tensor has more."""
    some: list[str] = []
    total = 0
    for name, size in sizes.items():
        if some and total + size > BUCKET:
            yield some
            some, total = [], 0
        some.append(name)
        total += size
    if some:
        yield some


def is_launched() -> bool:
    """Whether torchrun, or `--processes`, started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def num_restarts() -> int:
    """How often all processes were started again, because one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def patience() -> float:
    said = os.environ.get(PATIENCE, str(PATIENCE_S))
    try:
        return float(said)
    except ValueError:
        raise InputError(f"{PATIENCE} is {said!r}; wanted seconds, such as 600") from None


def join() -> Ranks:
    """The ranks that were started together; one process where nobody started several."""
    if dist.is_initialized() and dist.get_world_size() > 1:  # by Ray Train
        return Group(patience())
    if not is_launched():
        return Ranks()
    patience_s = patience()
    backend = "gloo"
    if torch.cuda.is_available():
        local, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local > there:
            raise InputError(f"{local} processes were started on this machine, which has {there} GPUs: one each")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=max(START_S, patience_s)))
    except RuntimeError as error:
        raise LostRank(f"the processes of this run did not find each other: {str(error).splitlines()[0]}") from error
    return Group(patience_s)


def part() -> None:
    """Behind the last word: the connections are closed, by who made them."""
    if is_launched() and dist.is_initialized():
        dist.destroy_process_group()
