"""Supervised contrastive learning beside the tokens' loss (Gunel et al. 2020, arXiv:2011.01403).

L = (1 - lambda) CE + lambda SCL. An example's state is the one that foretells the first token of its label: it has read
the prompt and not yet the label. All examples of an update are compared, whatever micro-batch they are in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tunesmith.roles import Objective, Output
from tunesmith.types import Forest, Loss, Ratio, Shared


def contrastive(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    """SCL of each example [U], of states z [U, D] of length 1: minus the mean log-softmax, over all others, of those
    with its label; 0 for one that has no other."""
    if len(z) < 2:
        return z.sum(-1) * 0
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logp = (z @ z.T / temperature).masked_fill(itself, float("-inf")).log_softmax(-1).masked_fill(itself, 0)
    same = (label[:, None] == label[None]) & ~itself
    return -(logp * same).sum(-1) / same.sum(-1).clamp(min=1)


class Contrastive:
    """`inner`: the tokens' loss; `classes`: the label of each example by its id (others are not compared);
    `share_of_loss`: lambda, above 0."""

    needs = frozenset({"shared"})

    def __init__(self, inner: Objective, classes: Mapping[str, int], share_of_loss: float, temperature: float) -> None:
        assert not inner.needs
        self.inner, self.classes = inner, classes
        self.share_of_loss, self.temperature = share_of_loss, temperature

    def count(self, batch: Forest) -> Tensor:
        return self.inner.count(batch)

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def share(self, output: Output, batch: Forest) -> Tensor:
        """[U, D + 2]: state, label, learned tokens."""
        owner = batch.owner[output.segment]
        known = [i for i, e in enumerate(batch.example_ids) if e in self.classes and bool((owner == i).any())]
        index = torch.tensor(known, dtype=torch.int64, device=owner.device)
        first = torch.searchsorted(owner, index)  # owners stand in order
        hidden = output.hidden[output.at[first]]
        z = torch.nn.functional.normalize(hidden if hidden.dtype == torch.float64 else hidden.float(), dim=-1)
        label = torch.tensor([self.classes[batch.example_ids[i]] for i in known], device=owner.device)
        weight = torch.zeros(len(batch.example_ids), device=owner.device).index_add(0, owner, output.weight)
        return torch.cat([z, label[:, None].to(z), weight[index][:, None].to(z)], -1)

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        """The mean of SCL over the examples counts as much as the mean of CE over their tokens."""
        assert shared is not None
        tokens = self.inner(output, batch, None, others)
        label, weight = (shared.rows[:, k].detach() for k in (-2, -1))
        each = contrastive(shared.rows[:, :-2], label, self.temperature)[shared.mine]
        total = each.sum() * weight.sum() / max(1, len(label))
        found = {"contrastive_nats": Ratio(each.detach().sum(), torch.tensor(float(len(each))))}
        return Loss(
            (1 - self.share_of_loss) * tokens.total + self.share_of_loss * total.to(tokens.total), tokens.stats | found
        )
