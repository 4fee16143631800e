"""Training in several real processes on gloo, started by a fork server that pays once for the imports."""

from __future__ import annotations

import functools
import multiprocessing as mp
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tests.laws.sessions import ADAPTS, base_of, records
from tests.laws.test_kto import MARKS
from tests.laws.test_kto import REFERENCE as MARKED
from tests.laws.test_objectives import Contrast
from tests.laws.test_policy import groups, laid
from tests.laws.test_preference import pairs
from tests.tiny import VOCABULARY
from torch import Tensor

from tunesmith.data.feed import FileFeed
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW, global_norm
from tunesmith.engine.ranks import ALONE, Group, obey
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.blockwise import Quantised, quantise
from tunesmith.models.load import Base
from tunesmith.models.quantised import linear_layers
from tunesmith.objectives.kto import Kto, Marking
from tunesmith.objectives.policy import Policy, Reinforcing
from tunesmith.objectives.preference import Preference, Preferring
from tunesmith.objectives.sft import SFT
from tunesmith.regularisers.mixout import Mixout
from tunesmith.regularisers.neftune import NEFTune
from tunesmith.types import Forest, Record, Rollouts

FORKS = mp.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.laws.ranked"])
SAVED = 9
CLIP = 0.3  # below most norms
# Adam with a small eps makes whole steps of gradients that are 0 but for rounding
OPTIM = AdamW(eps=1e-2, weight_decay=0.01, clip_norm=CLIP)
PATIENCE_S = 60


@dataclass(frozen=True)
class Case:
    """`micro`: tokens of a micro-batch; an update has one to five."""

    objective: Callable[[], Any]
    rows: Callable[[int], Sequence[Record]] = records
    spec: Spec = Spec(ADAPTS["lora"], OPTIM, seed=5)  # noqa: RUF009 (frozen)
    family: str = "llama"
    shape: tuple[tuple[str, float], ...] = ()
    dtype: torch.dtype = torch.float32
    bits: int = 0  # of the layers under the adapter; 0: as they are
    micro: int = 48
    updates: int = 20
    extra: Callable[[Forest], Forest] = lambda batch: batch  # with what hangs on a micro-batch


def sampled(batch: Forest) -> Forest:
    """What a sampler would have said of the replies, which were as likely as any others; and their values."""
    rows = {r.example_id: r for r in groups(24)}
    even = {n: [torch.full((len(s.tokens),), -np.log(VOCABULARY)) for s in r.segments[1:]] for n, r in rows.items()}
    done = laid([rows[name] for name in batch.example_ids], even)
    assert isinstance(done.extra, Rollouts)
    extra = replace(done.extra, value=0.1 * done.extra.advantage, returns=done.extra.advantage)
    return replace(done, extra=extra)


NEARBY = {f"e{i}": (-12.0 - i % 3, -10.0 + i % 2) for i in range(24)}  # so that no margin is far from 0
NOISY = Spec(replace(ADAPTS["lora"], dropout=0.2), OPTIM, 5, regularisers=(Mixout(0.3), NEFTune(5.0)))
FULL = Spec(ADAPTS["full"], OPTIM, seed=5)
HELD = Spec(replace(ADAPTS["lora"], base_bits=4), OPTIM, seed=5)
KEYED = Spec(replace(ADAPTS["lora"], dropout=0.2), OPTIM, 5, regularisers=(NEFTune(5.0),))
VALUED = replace(FULL, heads=("value",))
GENTLE = replace(FULL, adapt=ADAPTS["lora"], optim=replace(OPTIM, clip_norm=0.005))
CASES = {  # those that take their way through the same code make fewer updates
    "supervised": Case(SFT),
    "noise": Case(SFT, spec=NOISY, updates=4),
    "all weights, a library's dropout": Case(SFT, spec=FULL, family="gpt2", shape=(("resid_pdrop", 0.3),), updates=4),
    "pairs": Case(lambda: Preferring(Preference(), NEARBY), pairs, micro=60),
    "marks": Case(lambda: Marking(Kto(beta=0.05), MARKED, MARKS), pairs, GENTLE, micro=60, updates=4),
    "contrast": Case(Contrast, updates=4),
    "16 bits": Case(SFT, spec=FULL, dtype=torch.bfloat16, updates=4),
    "a base in 4 bits": Case(SFT, spec=HELD, bits=4, updates=4),
    "keyed noise": Case(SFT, spec=KEYED, updates=4),
    "replies": Case(lambda: Reinforcing(Policy()), lambda num: groups(num), micro=120, updates=8, extra=sampled),
    "values": Case(lambda: Reinforcing(Policy(method="ppo")), lambda num: groups(num), VALUED, micro=120, updates=4,
                   extra=sampled),
}  # fmt: skip


class Averaged(Group):
    """The mutant that data parallelism is by itself: each rank's mean, and the mean of these."""

    def dealt(self, batches: Any, base: Any, *, pads: bool = False) -> Any:
        share = super().dealt(batches, base, pads=pads)
        self.mine = sum((b.weights.sum() for b in share.batches), torch.zeros(()))
        return share

    def summed(self, gradients: dict[str, Tensor], like: Any) -> dict[str, Tensor]:
        factor = self.sum_(self.mine.clone()) / self.mine.clamp(min=1) / self.size
        return super().summed({n: g * factor for n, g in gradients.items()}, like)


class ClippedApart(Group):
    """The mutant that clips each rank's gradient before they are added up."""

    def summed(self, gradients: dict[str, Tensor], like: Any) -> dict[str, Tensor]:
        norm = float(global_norm(gradients)) if gradients else 0.0
        most = CLIP / self.size
        return super().summed({n: g * (most / norm if norm > most else 1.0) for n, g in gradients.items()}, like)


class KeyedApart(Group):
    """The mutant that keys noise by a micro-batch's place on its rank."""

    def keys(self, share: Any, num: int) -> Any:
        return range(num)


class Counted(Group):
    """The mutant that learns from what other ranks are waited for with."""

    def dealt(self, batches: Any, base: Any, *, pads: bool = False) -> Any:
        share = super().dealt(batches, base, pads=pads)
        numbers = share.numbers + tuple(range(len(share.idle)))
        return replace(share, numbers=numbers, batches=[*share.batches, *share.idle], idle=())


class ClippedByParts(Group):
    """The mutant that takes the norm of the part of the gradient that a rank holds."""

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor


class Cast(Group):
    """The mutant whose forward pass casts what it is given, advantages and the sampler's nats among it."""

    def dealt(self, batches: Any, base: Any, *, pads: bool = False) -> Any:
        share = super().dealt(batches, base, pads=pads)
        return replace(share, batches=[replace(b, extra=cast(b.extra)) for b in share.batches])


def cast(extra: Any) -> Any:
    half = {name: getattr(extra, name).bfloat16() for name in ("old_logp", "advantage", "ref_logp")}
    return replace(extra, **half)


MUTANTS = {
    "supervised": (Averaged, ClippedApart),
    "all weights, a library's dropout": (KeyedApart,),
    "16 bits": (Averaged,),
}
SPREAD_MUTANTS = {"supervised": (Counted, ClippedByParts), "replies": (Cast,)}
KINDS = {kind.__name__: kind for kind in (Group, Averaged, ClippedApart, KeyedApart, Counted, ClippedByParts, Cast)}


class Noted(FileFeed):
    """Tells which examples were in which micro-batch."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.rows(24), 160, case.micro, 20, seed=3)
        self.extra = case.extra

    def update(self) -> list[Forest]:
        batches = [self.extra(batch) for batch in super().update()]
        self.seen = [*vars(self).get("seen", []), [b.example_ids for b in batches]]
        return batches


@functools.cache
def base_for(family: str, shape: tuple[tuple[str, float], ...], dtype: torch.dtype, bits: int) -> Base:
    base = base_of(family, **dict(shape))
    base.model.to(dtype=dtype)  # type: ignore[call-arg]
    for name, plain in linear_layers(base.model).items() if bits else ():
        layer = Quantised(*quantise(plain.weight, bits), plain.weight.shape, dtype, plain.bias)
        base.model.set_submodule(name, layer)
    return base


def learned(case: Case, group: Any, folder: Path, how: str) -> dict[str, Any] | None:
    """One run: clipped gradients of every update, what is left, and which examples were in which. `how`: "save" after
    some updates, "resume" from there, with "fsdp" the weights are spread over the ranks, with "again" layers run again.
    The last word is that of the checkpoints' folder."""
    session = Session(base_for(case.family, case.shape, case.dtype, case.bits), checkpointing="again" in how)
    session.create("t", case.spec)
    session.ranks = group
    if "fsdp" in how:
        session.spread("t")
    clipped: list[dict[str, np.ndarray]] = []
    tenant = session.tenants["t"]

    def keep(*_: Any) -> None:
        there = {n: p.grad for n, p in tenant.masters.items() if p.grad is not None}
        clipped.append({n: g.numpy().copy() for n, g in session.learner.whole(there).items()})

    tenant.optimizer.register_step_pre_hook(keep)
    if group.rank:
        obey(group, session)
        session.close()
        return None
    feed = Noted(case)
    state = State("t", case.objective(), Schedule("cosine", 0.2), 2e-3, case.updates)
    if "resume" in how:
        path, _ = checkpoint.newest(folder)
        assert path is not None
        checkpoint.load(path, session, state, feed)
    if "save" in how:
        train(session, state, feed, SAVED)
        checkpoint.save(folder, session, state, feed)
    train(session, state, feed, case.updates)
    tensors, _ = session.save_state("t")
    group.dismiss()
    session.close()
    return {"clipped": clipped, "state": {n: t.numpy() for n, t in tensors.items()}, "seen": feed.seen}


def worker(rank: int, size: int, home: str, asked: Sequence[tuple[str, str, str]], answer: Connection) -> None:
    """`asked`: (case, class of the group, how)."""
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(size)
    store = dist.FileStore(f"{home}/store_{size}", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE_S))
    found = {}
    for name, kind, how in asked:
        group = KINDS[kind](PATIENCE_S)
        found[name, kind, how] = learned(CASES[name], group, Path(home) / how.rpartition(" ")[2], how)
    if rank == 0:
        answer.send(found)
    dist.destroy_process_group()


def alone(name: str, home: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    found = learned(CASES[name], ALONE, home, "")
    assert found is not None
    return found


def together(size: int, home: Path, asked: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], Any]:
    """What the leader of so many ranks found."""
    ours, theirs = FORKS.Pipe(duplex=False)
    ranks = [FORKS.Process(target=worker, args=(r, size, str(home), asked, theirs)) for r in range(size)]
    for process in ranks:
        process.start()
    theirs.close()
    found: dict[tuple[str, str, str], Any] = ours.recv()
    for process in ranks:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    return found
