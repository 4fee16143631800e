"""Learning from single replies that somebody marked as good or bad. Ethayarajh et al. 2024, arXiv:2402.01306 (KTO).

What is learned is how much likelier a reply became (its gain, in nats), against how much likelier replies to other
prompts became behind this one (z0, over the whole update). So each example has two replies: its own, and another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.objectives.preference import Reference, nats_of, pairs_in, reference_of
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


@dataclass(frozen=True, slots=True)
class Kto:
    beta: float = 0.1  # strength, 1/nats: lower lets the model move further from where it began
    desirable: float = 1.0  # what a reply that is marked good counts
    undesirable: float = 1.0  # what one that is marked bad counts; both sides together should count about alike


def kto(gain_P: Tensor, z0: Tensor, is_good_P: Tensor, beta: float) -> Tensor:
    """1 - sigmoid(beta (gain - z0)) of a good reply, 1 - sigmoid(beta (z0 - gain)) of a bad one: eq. 7 and 8, before
    they are weighed."""
    sign = 2.0 * is_good_P.to(gain_P) - 1
    return torch.sigmoid(-sign * beta * (gain_P - z0))


def reference_point(gain_P: Tensor, weight_P: Tensor) -> Tensor:
    """z0, at least 0: the mean gain of replies behind prompts that are not theirs. Nothing is learned through it."""
    return ((gain_P * weight_P).sum() / weight_P.sum()).clamp(min=0).detach()


class Marking:
    """An example is the unit, and counts for its row's weight; its first reply is its own, its second another prompt's.
    `marks`: which examples are good. `reference`: as of pairs; None: the model as it is now."""

    needs = frozenset({"shared", "held"})

    def __init__(self, asked: Kto, reference: Reference | None, marks: Mapping[str, bool]) -> None:
        self.asked, self.reference, self.marks = asked, reference, marks

    def count(self, batch: Forest) -> Tensor:
        return self.weights(batch, pairs_in(batch)).sum(dtype=torch.float64)

    def weights(self, batch: Forest, index: Tensor) -> Tensor:
        return batch.weights[batch.start[index[:, 0]]]

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def share(self, output: Output, batch: Forest) -> Tensor:
        return self.rows(nats_of(output, batch), batch)

    def rows(self, logp_S: Tensor, batch: Forest) -> Tensor:
        """[P, 2]: the gain of the reply that is another prompt's, and the weight."""
        index = pairs_in(batch)
        return torch.stack([self.gains(logp_S, batch, index)[:, 1], self.weights(batch, index).to(logp_S)], -1)

    def gains(self, logp_S: Tensor, batch: Forest, index: Tensor) -> Tensor:
        """[P, 2]: how much likelier both replies became."""
        return (logp_S - reference_of(self.reference, batch, logp_S))[index.to(logp_S.device)]

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        assert shared is not None
        return self.of(nats_of(output, batch), batch, shared.rows)

    def of(self, logp_S: Tensor, batch: Forest, rows: Tensor) -> Loss:
        """`rows`: of the whole update."""
        index, z0 = pairs_in(batch), reference_point(rows[:, 0], rows[:, 1]).to(logp_S)
        gain = self.gains(logp_S, batch, index)[:, 0]
        good = torch.tensor([self.marks[name] for name in batch.example_ids], device=logp_S.device)
        weight = self.weights(batch, index).to(logp_S)
        side = torch.where(good, self.asked.desirable, self.asked.undesirable).to(logp_S)
        each = side * kto(gain, z0, good, self.asked.beta)
        return Loss((each * weight).sum(), told(gain.detach(), z0, good, weight))


def told(gain: Tensor, z0: Tensor, good: Tensor, weight: Tensor) -> dict[str, Ratio]:
    """How much likelier good and bad replies became, and others behind these prompts; and how many went the way that
    they were marked."""
    of_good, of_bad, total = weight * good, weight * ~good, weight.sum()
    way = ((gain.sign() * (2.0 * good.to(gain) - 1) + 1) / 2 * weight).sum()
    return {
        "good_change_nats": Ratio((gain * of_good).sum(), of_good.sum()),
        "bad_change_nats": Ratio((gain * of_bad).sum(), of_bad.sum()),
        "other_change_nats": Ratio(z0 * total, total),
        "as_marked_frac": Ratio(way, total),
    }
