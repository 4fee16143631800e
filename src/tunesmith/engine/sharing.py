"""The exchange for objectives that must see all micro-batches of an update at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunesmith.roles import Objective, Output
from tunesmith.types import Forest, Shared


def exchange(
    objective: Objective,
    outs: Sequence[Output],
    batches: Sequence[Forest],
    rows: Sequence[Tensor],
    others: Sequence[dict[str, Any]],
) -> list[tuple[Shared, Tensor]]:
    """For each micro-batch (what all shared, the loss's derivative with respect to its own rows), each [U, K].

    `outs` and `rows`, the shares, carry no gradient: a second forward pass sends the derivative into the weights. What
    else trains in the loss (a head) gets its gradient there too, and none here.
    """
    everything = torch.cat(list(rows)).detach().requires_grad_()
    ends = torch.tensor([len(r) for r in rows]).cumsum(0).tolist()
    shared = [Shared(everything, slice(end - len(r), end)) for end, r in zip(ends, rows)]
    cotangent = torch.zeros_like(everything)
    for out, batch, seen, other in zip(outs, batches, shared, others):
        total = objective(out, batch, seen, other).total
        if total.requires_grad:
            [found] = torch.autograd.grad(total, [everything], allow_unused=True)
            cotangent += 0 if found is None else found
    return [(Shared(everything.detach(), s.mine), cotangent[s.mine]) for s in shared]
