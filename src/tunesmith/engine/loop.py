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


@dataclass(slots=True)
class State:
    """Which tenant learns what, and how far it is. With the states of tenant and feed this is all a resume needs."""

    tenant: str
    objective: Objective
    schedule: Schedule
    lr: float  # peak
    num_updates: int  # of the whole run
    update: int = 0  # done so far
    on_nan: Literal["abort", "skip"] = "abort"
    skipped: dict[int, tuple[str, ...]] = field(default_factory=dict)  # update -> the examples to blame


def train(session: Session, state: State, feed: Feed, until: int, listeners: Sequence[Listener] = ()) -> None:
    """Run updates until `until` are done."""
    while state.update < until:
        began = time.monotonic()
        batches = feed.update()
        lr = state.lr * state.schedule.factor(state.update, state.num_updates)
        try:
            stats, units, norm = update(session, state.tenant, batches, state.objective, lr)
        except NotFinite as error:
            skip(session, state, error)
            stats, units, norm = {}, 0.0, 0.0
        state.update += 1
        seconds = time.monotonic() - began
        tokens = sum(batch.num_tokens for batch in batches)
        facts = {name: ratio.mean for name, ratio in stats.items()}
        facts |= {"lr": lr, "grad_norm": norm, "units": units, "tokens": tokens, "tokens_per_s": tokens / seconds}
        for listener in listeners:
            listener(state.update, facts)


def skip(session: Session, state: State, error: NotFinite) -> None:
    """Count the update as made, with no step. Raises where that is not wanted, or the last ones were skipped too: then
    it is not the data."""
    last = {state.update, state.update - 1}
    if state.on_nan == "abort" or last <= set(state.skipped):
        raise error
    state.skipped[state.update + 1] = error.example_ids
    session.skip_update(state.tenant)
