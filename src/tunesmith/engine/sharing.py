"""The loss of a micro-batch, and what it is made of beside the micro-batch: frozen models, and what objectives share
that must see all micro-batches of an update at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.engine.ranks import Ranks
from tunesmith.engine.tenant import Snapshot, Tenant
from tunesmith.models.heads import KeptHead
from tunesmith.models.load import Base
from tunesmith.models.output import ForwardOutput, output
from tunesmith.roles import Objective, Output
from tunesmith.types import Forest, Loss, Shared


def loss_of(
    objective: Objective, out: ForwardOutput, batch: Forest, shared: Shared | None, others: dict[str, Any]
) -> Loss:
    weights = objective.linear_weights(batch)
    if weights is not None:  # one pass over the head gives loss and gradient
        total, _ = out.linear_loss(weights)
        return Loss(total)
    return objective(out, batch, shared, others)


def others_of(
    tenant: Tenant, batch: Forest, objective: Objective, ask: Callable[[Snapshot | None], ForwardOutput]
) -> dict[str, Any]:
    """What the frozen models say that objective and regularisers want, each with a head of its own."""
    others: dict[str, Any] = {}
    needs = objective.needs.union(*(r.needs for r in tenant.spec.regularisers))
    for role, frozen in (("reference", tenant.spec.reference), ("teacher", tenant.spec.teacher)):
        if role not in needs:
            continue
        if isinstance(frozen, Base):
            others[role] = output(frozen.model, frozen.head, batch, frozen.layout)
            continue
        out = ask(frozen)
        values = tenant.slot.neutral if frozen is None else frozen.values
        mine = out.head.projection
        parts = {"weight": mine.weight, "bias": mine.bias}
        moving = {k: n for k, part in parts.items() for n, p in tenant.slot.live.items() if p is part}
        if moving:  # the head trains: the reference keeps the weights it was computed with
            kept: dict[str, Any] = {k: values[n].to(out.hidden.dtype) for k, n in moving.items()}
            out.head = KeptHead(replace(mine, **kept))
        others[role] = out
    return others


def shares_of(
    forward: Callable[[int, Forest], ForwardOutput],
    batches: Sequence[Forest],
    objective: Objective,
    others: Sequence[dict[str, Any]],
    ranks: Ranks,
    then: Callable[[], None],
) -> list[tuple[Shared, Tensor]]:
    """(what all shared, cotangent of mine) of each micro-batch, [U, K] both; nothing where nothing is shared. `then` is
    called behind the forward passes.

    The loss is differentiated with respect to the shares; a second forward pass sends that into the weights.
    """
    if "shared" not in objective.needs:  # asked before a forward pass is spent on it
        return []
    outs, rows = [], []
    with torch.no_grad():
        for index, batch in enumerate(batches):
            out = forward(index, batch)
            outs.append(out)
            rows.append(objective.share(out, batch))
        then()
    return exchange(objective, outs, batches, rows, others, ranks)


def exchange(
    objective: Objective,
    outs: Sequence[Output],
    batches: Sequence[Forest],
    rows: Sequence[Tensor],
    others: Sequence[dict[str, Any]],
    ranks: Ranks,
) -> list[tuple[Shared, Tensor]]:
    """For each micro-batch (what all shared, the loss's derivative with respect to its own rows), each [U, K].

    `outs` and `rows`, the shares, carry no gradient: a second forward pass sends the derivative into the weights. What
    else trains in the loss (a head) gets its gradient there too, and none here. What is held has no derivative.
    """
    both, first = ranks.rows(rows)
    everything = both.detach().requires_grad_()
    ends = (first + torch.tensor([len(r) for r in rows], dtype=torch.int64).cumsum(0)).tolist()
    shared = [Shared(everything, slice(end - len(r), end)) for end, r in zip(ends, rows)]
    cotangent = torch.zeros_like(everything)
    if "held" in objective.needs:
        return [(Shared(everything.detach(), s.mine), cotangent[s.mine]) for s in shared]
    for out, batch, seen, other in zip(outs, batches, shared, others):
        total = objective(out, batch, seen, other).total
        if total.requires_grad:
            [found] = torch.autograd.grad(total, [everything], allow_unused=True)
            cotangent += 0 if found is None else found
    ranks.sum_(cotangent)
    return [(Shared(everything.detach(), s.mine), cotangent[s.mine]) for s in shared]
