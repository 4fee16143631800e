"""One update: gradient, step, and what is done where the numbers are not finite or the memory runs out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.data.halves import halves
from tunesmith.engine.cuts import give_back, without_frames
from tunesmith.engine.session import Session
from tunesmith.errors import EmptyUpdate, NotFinite, is_memory
from tunesmith.roles import Objective
from tunesmith.types import Forest, Ratio


def update(
    session: Session, name: str, batches: Sequence[Forest], objective: Objective, lr: float
) -> tuple[dict[str, Ratio], float, float]:
    """(stats, units, gradient norm). The loss is divided once, by the units of the whole update, so the gradient does
    not depend on how the update was cut. Raises NotFinite, naming the examples, before any parameter changed."""
    units = float(sum(objective.count(batch) for batch in batches))
    if units == 0:
        raise EmptyUpdate(
            "an update has no unit to learn from: `tunesmith audit` shows which examples lose their reply"
        )
    number = session.tenants[name].num_updates + 1
    while True:
        stats = session.forward_backward(name, batches, objective, 1.0 / units)
        try:
            if not all(math.isfinite(ratio.mean) for ratio in stats.values()):
                session.forget_gradients(name)
                raise NotFinite(())
            return stats, units, session.optim_step(name, lr)
        except NotFinite:
            raise NotFinite(poisoned(session, name, batches, objective), number) from None
        except (RuntimeError, MemoryError) as error:  # in the optimizer; a step that was made is not made again
            if session.tenants[name].num_updates == number or not is_memory(error) or session.ranks.size > 1:
                raise
            failed = without_frames(error)
        give_back()
        if not session.cuts.halve(batches, number):
            raise failed


def poisoned(session: Session, name: str, batches: Sequence[Forest], objective: Objective) -> tuple[str, ...]:
    """The examples whose own loss or gradient is not finite, found by halving; all of the update where no example
    alone is to blame."""
    found: list[str] = []
    suspects = list(batches)
    while suspects:
        batch = suspects.pop()
        units = float(objective.count(batch)) or 1.0
        stats = session.forward_backward(name, [batch], objective, 1.0 / units)
        is_finite = all(math.isfinite(ratio.mean) for ratio in stats.values())
        if session.forget_gradients(name) and is_finite:
            continue
        both = halves(batch)
        if both is None:
            found += batch.example_ids
        else:
            suspects += [half.forest for half in both]
    return tuple(sorted(found)) or tuple(e for batch in batches for e in batch.example_ids)
