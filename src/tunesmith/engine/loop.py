"""The loop: boring on purpose. What is interesting is passed into it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.errors import EmptyUpdate
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


def train(session: Session, state: State, feed: Feed, until: int, listeners: Sequence[Listener] = ()) -> None:
    """Run updates until `until` are done. The loss is divided once, by the units of the whole update, so the gradient
    does not depend on how the update was cut."""
    while state.update < until:
        began = time.monotonic()
        batches = feed.update()
        units = float(sum(state.objective.count(batch) for batch in batches))
        if units == 0:
            raise EmptyUpdate(
                "an update has no unit to learn from: `tunesmith audit` shows which examples lose their reply"
            )
        stats = session.forward_backward(state.tenant, batches, state.objective, 1.0 / units)
        lr = state.lr * state.schedule.factor(state.update, state.num_updates)
        norm = session.optim_step(state.tenant, lr)
        state.update += 1
        seconds = time.monotonic() - began
        tokens = sum(batch.num_tokens for batch in batches)
        facts = {name: ratio.mean for name, ratio in stats.items()}
        facts |= {"lr": lr, "grad_norm": norm, "units": units, "tokens": tokens, "tokens_per_s": tokens / seconds}
        for listener in listeners:
            listener(state.update, facts)
