"""Learning a reward model from pairs: the better reply is to get the higher score. Bradley and Terry 1952; Stiennon et
al. 2020, arXiv:2009.01325 (reward models for language models).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tunesmith.objectives.preference import OfPairs, pair_weights, pairs_in
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Shared


@dataclass(frozen=True, slots=True)
class Reward:
    margin: float = 0.0  # by how much the better reply's score is to be higher, before a pair counts as learned
    centre: float = 0.0  # strength that holds the two scores of a pair around 0; 0.01 is usual


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, margin: float) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin). Touvron et al. 2023, arXiv:2307.09288, eq. 2."""
    return -F.logsigmoid(chosen_P - rejected_P - margin)


def off_centre(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """(r_chosen + r_rejected)^2, since a loss of differences leaves open where 0 is. Eisenstein et al. 2023,
    arXiv:2312.09244, section 2; TRL's center_rewards_coefficient."""
    return (chosen_P + rejected_P) ** 2


class Rewarding(OfPairs):
    def __init__(self, asked: Reward) -> None:
        self.asked = asked

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        return self.of(output.scalars["score"], batch)

    def of(self, score_S: Tensor, batch: Forest) -> Loss:
        """The loss of the scores [S] of a forest's segments."""
        index = pairs_in(batch)
        weight = pair_weights(batch, index).to(score_S)
        chosen, rejected = (score_S[index[:, side].to(score_S.device)] for side in (0, 1))
        each = bradley_terry(chosen, rejected, self.asked.margin)
        if self.asked.centre:
            each = each + self.asked.centre * off_centre(chosen, rejected)
        return Loss((each * weight).sum(), told((chosen - rejected).detach(), (chosen + rejected).detach(), weight))


def told(margin_P: Tensor, sum_P: Tensor, weight: Tensor) -> dict[str, Ratio]:
    """Means over pairs: how much higher the better reply's score is, in how many pairs it is the higher one (a tie is
    half), and the score of a reply."""
    total = weight.sum()
    return {
        "score_margin": Ratio((margin_P * weight).sum(), total),
        "preferred_frac": Ratio(((margin_P.sign() + 1) / 2 * weight).sum(), total),
        "score_mean": Ratio((sum_P / 2 * weight).sum(), total),
    }
