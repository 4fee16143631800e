"""Focal loss (Lin et al. 2017, arXiv:1708.02002): what is known already counts less."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.objectives.sft import SFT
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


def focal(logp: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p, of log-probabilities in nats. `gamma` 1 or more: below, its slope at p = 1 has no end."""
    return -((-torch.expm1(logp)) ** gamma) * logp


class Focal(SFT):
    """`gamma`: 1 or more; at 0 it would be SFT."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        logp = output.logp()
        nll = -(logp.detach() * output.weight).sum()
        total = (focal(logp, self.gamma) * output.weight).sum()
        return Loss(total, {"nll_nats_per_token": Ratio(nll, self.count(batch))})
