"""The loop: boring on purpose. What is interesting is passed into it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.update import update
from tunesmith.errors import NotFinite
from tunesmith.roles import Feed, Listener, Objective
from tunesmith.types import Forest, Ratio


@dataclass(slots=True)
class State:
    """Which tenant learns what, and how far it is. With the states of tenant and feed this is all a resume needs."""

    tenant: str
    objective: Objective
    schedule: Schedule
    lr: float  # peak
    num_updates: int  # of the whole run
    update: int = 0  # done so far
    on_nan: Literal["abort", "skip", "rollback"] = "abort"
    reference: str = ""  # SHA-256 of what the loss is measured against, which stays as it was at update 0
    # Updates without a step -> the examples to blame; none where training went back from there, and passes them by
    skipped: dict[int, tuple[str, ...]] = field(default_factory=dict)


def train(session: Session, state: State, feed: Feed, until: int, listeners: Sequence[Listener] = ()) -> None:
    """Run updates until `until` are done."""
    while state.update < until:
        began = time.monotonic()
        batches = feed.update()
        lr = state.lr * state.schedule.factor(state.update, state.num_updates)
        stats, units, norm = made(session, state, batches, lr)
        state.update += 1
        seconds = time.monotonic() - began
        tokens = sum(batch.num_tokens for batch in batches)
        facts = {name: ratio.mean for name, ratio in stats.items()}
        facts |= {"lr": lr, "grad_norm": norm, "units": units, "tokens": tokens, "tokens_per_s": tokens / seconds}
        for listener in listeners:
            listener(state.update, facts)


def made(session: Session, state: State, batches: Sequence[Forest], lr: float) -> tuple[dict[str, Ratio], float, float]:
    """The update, or none, where it is passed by or not finite. Raises NotFinite where that is not wanted, or the last
    two were skipped too: then it is not the data."""
    number = state.update + 1
    if number not in state.skipped:
        try:
            return update(session, state.tenant, batches, state.objective, lr)
        except NotFinite as error:
            if state.on_nan == "abort" or all(state.skipped.get(n) for n in (number - 1, number - 2)):
                raise
            state.skipped[number] = error.example_ids
    session.skip_update(state.tenant)
    return {}, 0.0, 0.0
