"""Label smoothing (Szegedy et al. 2016): the target is 1 - eps of itself and eps of every token alike."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from tunesmith.objectives.sft import SFT
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


def smoothed(logits: Tensor, target: Tensor, logp: Tensor, eps: float) -> Tensor:
    """(1 - eps) of the target's negative log-probability + eps of the mean over the vocabulary, [c] nats.

    `logp` [c]: of the target, as the head says it. Where each label is a question by itself, a softmax over the answers
    to all of them is off by a constant, which the slope does not show and the loss would.
    """
    nats = logits.log_softmax(-1)
    mine = nats.gather(1, target[:, None])[:, 0]
    return -(1 - eps) * mine - eps * nats.mean(-1) + (mine - logp).detach()


class Smoothed(SFT):
    """`eps`: above 0; at 0 it would be SFT."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        logp = output.logp().detach()
        each = output.over_vocab(partial(smoothed, eps=self.eps), output.target, logp)
        nll = -(logp * output.weight).sum()
        return Loss((each * output.weight).sum(), {"nll_nats_per_token": Ratio(nll, self.count(batch))})
