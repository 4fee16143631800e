"""What is counted on a twin without numbers is what torch's allocator counts on the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny
from tests.laws.sessions import base_of, records
from torch.profiler import ProfilerActivity, profile

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.adapters import Adapt
from tunesmith.models.traced import trace_learning
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest

SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
BATCH = forest(records(40))


def allocated(session: Session, batch: Forest) -> int:
    """Bytes that torch had allocated at most during one forward and backward, above what it had before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        session.forward_backward("t", [batch], SFT(), 1.0)
    events: Any = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
@pytest.mark.parametrize("adapt", [Adapt(rank=4), Adapt("full")], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_peak_is_that_of_the_allocator(family: str, adapt: Adapt, checkpointing: bool) -> None:
    base = base_of(family, **SHAPE)
    traced = trace_learning(base.model, base.head, adapt, BATCH, checkpointing=checkpointing)
    session = Session(base, checkpointing=checkpointing)
    session.create("t", Spec(adapt))
    assert traced.peak == pytest.approx(allocated(session, BATCH), rel=0.1)


def test_running_layers_again_keeps_less() -> None:
    base = base_of("llama", **SHAPE)
    kept = trace_learning(base.model, base.head, Adapt(rank=4), BATCH, checkpointing=False)
    again = trace_learning(base.model, base.head, Adapt(rank=4), BATCH, checkpointing=True)
    assert again.kept < 0.25 * kept.kept
    assert again.peak < 0.7 * kept.peak


def test_half_precision_takes_half() -> None:
    whole, half = (
        trace_learning(base.model, base.head, Adapt("last_k", last_k=1), BATCH, checkpointing=False).kept
        for base in (base_of("llama", **SHAPE), base_of("llama", dtype=torch.bfloat16, **SHAPE))
    )
    assert half < 0.75 * whole


@pytest.mark.parametrize("family", [n for n, f in tiny.FAMILIES.items() if f.layout == "forest" and f.is_dense])
def test_each_dense_family_can_be_traced(family: str) -> None:
    base = base_of(family)
    assert trace_learning(base.model, base.head, Adapt(rank=2), BATCH, checkpointing=False).peak > 0
