"""R-Drop (Wu et al. 2021, arXiv:2106.14448): two passes with other dropout masks shall say the same.

The feed gives each example twice, as two roots of one record (`data/twins.py`); the loss counts both, and this adds
alpha / 2 [KL(1 || 2) + KL(2 || 1)] at each learned token, where the two stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tunesmith.roles import Output, Regulariser
from tunesmith.types import Forest, Loss, Ratio


def symmetric_kl(one: Tensor, two: Tensor) -> Tensor:
    """[KL(1 || 2) + KL(2 || 1)] / 2 in nats, [c], of logits [c, V]."""
    p, q = one.log_softmax(-1), two.log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


def twins(owner_L: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the first and of the second of each pair, [L / 2] each. Rows of one owner stand together, the first half
    of them is the first twin."""
    count = torch.bincount(owner_L)
    begin = count.cumsum(0) - count
    is_first = torch.arange(len(owner_L), device=owner_L.device) - begin[owner_L] < (count // 2)[owner_L]
    return is_first.nonzero()[:, 0], (~is_first).nonzero()[:, 0]


class RDrop(Regulariser):
    """`alpha`: 1 to 5 in the paper; 0 adds nothing."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def term(self, output: Output, batch: Forest, others: Mapping[str, Output]) -> Loss | None:
        if self.alpha == 0:
            return None
        one, two = (output.select(rows) for rows in twins(batch.owner[output.segment]))
        assert torch.equal(one.target, two.target), "R-Drop wants each example twice"
        total = (one.over_vocab(symmetric_kl, two) * one.weight).sum()
        return Loss(self.alpha * total, {"rdrop_nats_per_token": Ratio(total.detach(), one.weight.sum())})
