"""KL to the base: sum over learned tokens of KL(tuned || base), exact over the vocabulary, in chunks.

The direction is that of RLHF's penalty (Ouyang et al. 2022, eq. 2): what the base thinks unlikely becomes expensive.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tunesmith.roles import Output, Regulariser
from tunesmith.types import Forest, Loss, Ratio


def kl(mine: Tensor, theirs: Tensor) -> Tensor:
    """KL(softmax mine || softmax theirs) in nats, [c], of logits [c, V]."""
    logp = mine.log_softmax(-1)
    return (logp.exp() * (logp - theirs.log_softmax(-1))).sum(-1)


class KLToBase(Regulariser):
    """`beta`: strength, per token as the loss is; 0 adds nothing."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.needs = frozenset({"reference"} if beta else ())

    def term(self, output: Output, batch: Forest, others: Mapping[str, Output]) -> Loss | None:
        if self.beta == 0:
            return None
        total = (output.over_vocab(kl, others["reference"]) * output.weight).sum()
        return Loss(self.beta * total, {"kl_nats_per_token": Ratio(total.detach(), output.weight.sum())})
