"""What is counted on a twin without numbers is what torch's allocator counts on the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny
from tests.laws.sessions import base_of, records
from tests.unit.rollouts.test_rollout_feed import PPO, prompts
from torch.profiler import ProfilerActivity, profile

from tunesmith.data.pack import forest
from tunesmith.data.twins import doubled
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.traced_update import trace_clip, trace_update
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base
from tunesmith.models.traced import Traced
from tunesmith.objectives.policy import Reinforcing
from tunesmith.objectives.sft import SFT
from tunesmith.objectives.smoothing import Smoothed
from tunesmith.regularisers.kl import KLToBase
from tunesmith.regularisers.l2sp import L2SP
from tunesmith.regularisers.mixout import Mixout
from tunesmith.regularisers.neftune import NEFTune
from tunesmith.regularisers.rdrop import RDrop
from tunesmith.roles import Objective
from tunesmith.rollouts.draws import Draws
from tunesmith.types import Forest

SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
BATCH = forest(records(40))


PLAIN = SFT()
LORA, DROPPED, FULL = Adapt(rank=4), Adapt(rank=4, dropout=0.1), Adapt("full")


def trace(base: Base, adapt: Adapt, *, checkpointing: bool = False) -> Traced:
    return trace_update(base, Spec(adapt), [BATCH], SFT(), checkpointing=checkpointing)


def allocated(session: Session, batch: Forest, objective: Objective = PLAIN) -> int:
    """Bytes that torch had allocated at most during one forward and backward, above what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        session.forward_backward("t", [batch], objective, 1.0)
    events: Any = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("adapt", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_peak_is_that_of_the_allocator(family: str, adapt: Adapt, checkpointing: bool) -> None:
    base = base_of(family, **SHAPE)
    traced = trace(base, adapt, checkpointing=checkpointing)
    session = Session(base, checkpointing=checkpointing)
    session.create("t", Spec(adapt))
    assert traced.peak == pytest.approx(allocated(session, BATCH), rel=0.1)


@pytest.mark.parametrize(
    ("adapt", "regulariser", "objective"),
    [
        (LORA, KLToBase(0.1), SFT()), (FULL, KLToBase(0.1), SFT()), (LORA, Mixout(0.5), SFT()),
        (FULL, Mixout(0.5), SFT()), (DROPPED, RDrop(1.0), SFT()), (LORA, NEFTune(5.0), SFT()),
        (FULL, L2SP(0.1), Smoothed(0.1)),
    ],
    ids=["kl", "kl-full", "mixout", "mixout-full", "rdrop", "neftune", "smoothing-full"],
)  # fmt: skip
def test_what_regularisers_take_is_counted(adapt: Adapt, regulariser: Any, objective: Any) -> None:
    """To a hundredth. A mutant that traces the plain loss is further off wherever they take anything at the peak."""
    batch = forest([doubled(r) for r in records(40)]) if isinstance(regulariser, RDrop) else BATCH
    base, spec = base_of("llama", **SHAPE), Spec(adapt, regularisers=(regulariser,))
    found = trace_update(base, spec, [batch], objective, checkpointing=False)
    plain = trace_update(base, Spec(adapt), [batch], SFT(), checkpointing=False)
    session = Session(base)
    session.create("t", spec)
    taken = allocated(session, batch, objective)
    assert found.peak == pytest.approx(taken, rel=0.01)
    takes_some = isinstance(regulariser, KLToBase) or (adapt, type(regulariser)) == (LORA, Mixout)
    assert (plain.peak < 0.98 * taken) == takes_some


@pytest.mark.parametrize("adapt", [LORA, FULL], ids=["lora", "full"])
def test_a_value_head_is_counted(adapt: Adapt) -> None:
    """Of the largest update that is drawn."""
    base, objective = base_of("llama", **SHAPE), Reinforcing(PPO)
    [batch] = Draws(prompts(), PPO, epochs=1, seed=0, micro_tokens=4096).heaviest()
    spec = Spec(adapt, heads=("value",))
    found = trace_update(base, spec, [batch], objective, checkpointing=False)
    session = Session(base)
    session.create("t", spec)
    assert found.peak == pytest.approx(allocated(session, batch, objective), rel=0.02)


def test_a_pull_to_the_start_takes_a_copy_of_what_trains() -> None:
    base = base_of("llama", **SHAPE)
    trained = sum(p.numel() for p in base.model.parameters())
    assert trace_clip(base, Spec(FULL)) == 0
    taken = trace_clip(base, Spec(FULL, regularisers=(L2SP(0.1),)))
    assert 0 < taken < 4 * trained  # tensor after tensor


def test_running_layers_again_keeps_less() -> None:
    base = base_of("llama", **SHAPE)
    kept = trace(base, LORA)
    again = trace(base, LORA, checkpointing=True)
    assert again.kept < 0.25 * kept.kept
    assert again.peak < 0.7 * kept.peak


def test_half_precision_takes_half() -> None:
    whole, half = (
        trace(base, Adapt("last_k", last_k=1)).kept
        for base in (base_of("llama", **SHAPE), base_of("llama", dtype=torch.bfloat16, **SHAPE))
    )
    assert half < 0.75 * whole


@pytest.mark.parametrize("family", [n for n, f in tiny.FAMILIES.items() if f.layout == "forest" and f.is_dense])
def test_each_dense_family_can_be_traced(family: str) -> None:
    base = base_of(family)
    assert trace(base, LORA).peak > 0
