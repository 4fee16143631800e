"""Sessions on tiny models, and records of uneven lengths, for the laws of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests import tiny
from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.adapters import Adapt
from tunesmith.models.catalogue import Located
from tunesmith.models.heads import find_head
from tunesmith.models.load import Base
from tunesmith.models.probe import probe
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Record, Segment

ADAPTS = {
    "lora": Adapt("lora", rank=4, alpha=8),
    "full": Adapt("full"),
    "last_k": Adapt("last_k", last_k=1),
}


def base_of(family: str = "llama", **changes: Any) -> Base:
    model = tiny.build(family, **changes)
    model.requires_grad_(False)
    located = Located("tiny", Path(), "tiny", "", "")
    return Base(located, model, None, "0" * 64, probe(model), find_head(model), None)  # type: ignore[arg-type]


def records(num: int = 12, seed: int = 0) -> list[Record]:
    """Prompts with a common prefix and replies of very different lengths, so that a mean of means would show."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(3, tiny.VOCABULARY, 9)
    made = []
    for i in range(num):
        own = rng.integers(3, tiny.VOCABULARY, 3 + i % 5)
        reply = rng.integers(3, tiny.VOCABULARY, 1 + (i * i) % 11)
        tokens = np.concatenate([prefix, own, reply]).astype(np.int64)
        weights = np.concatenate([np.zeros(len(prefix) + len(own)), np.ones(len(reply))]).astype(np.float32)
        made.append(Record(f"e{i}", (Segment(tokens, weights),)))
    return made


def gradient(session: Session, name: str, batches: list[Forest], objective: Any = None) -> dict[str, Tensor]:
    objective = objective or SFT()
    units = float(sum(objective.count(b) for b in batches))
    session.forward_backward(name, batches, objective, 1 / units)
    tenant = session.tenants[name]
    found = {n: g.clone() for n, g in tenant.pending.items()}
    tenant.forget_gradients()
    return found


def moved(session: Session, name: str) -> None:
    """A few updates, so that LoRA's B is not zero and every gradient flows."""
    for i in range(3):
        gradient_step(session, name, [forest(records(4, seed=50 + i))])


def session_on(adapt: str) -> Session:
    """A session whose tenant "t" is no longer at update 0."""
    session = Session(base_of())
    session.create("t", Spec(ADAPTS[adapt]))
    moved(session, "t")
    return session


def gradient_step(session: Session, name: str, batches: list[Forest], lr: float = 1e-2) -> None:
    units = float(sum(SFT().count(b) for b in batches))
    session.forward_backward(name, batches, SFT(), 1 / units)
    session.optim_step(name, lr)


def largest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    size = max(float(t.abs().max()) for t in a.values())
    return max(float((a[n] - b[n]).abs().max()) for n in a) / size
