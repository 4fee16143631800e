"""Weighted next-token cross-entropy: L = -sum_t w_t log p(x_t | x_<t)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


class SFT:
    """A token is the unit. Linear in logp, so the session may take the one-pass head."""

    needs: frozenset[str] = frozenset()

    def count(self, batch: Forest) -> Tensor:
        return batch.weights.sum(dtype=torch.float64)

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return learned_weights(batch)

    def share(self, output: Output, batch: Forest) -> Tensor:
        raise AssertionError("supervised learning needs nothing shared")

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        total = -(output.logp() * output.weight).sum()
        return Loss(total, {"nll_nats_per_token": Ratio(total.detach(), self.count(batch))})


def learned_weights(batch: Forest) -> Tensor:
    """[L] weights of the learned tokens, in the order of the forest."""
    return batch.weights[batch.weights != 0]
