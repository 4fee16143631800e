"""Which loss a recipe asks for, on top of the plain one over reply tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.objectives.contrastive import Contrastive
from tunesmith.objectives.distil import Distil, Distilled
from tunesmith.objectives.focal import Focal
from tunesmith.objectives.kto import Kto
from tunesmith.objectives.policy import Policy
from tunesmith.objectives.preference import Preference
from tunesmith.objectives.reward import Reward
from tunesmith.objectives.sft import SFT
from tunesmith.objectives.smoothing import Smoothed
from tunesmith.roles import Objective


@dataclass(frozen=True, slots=True)
class Goal:
    """Each at 0 does nothing, to the last bit."""

    smoothing: float = 0.0  # label smoothing: share of the target that all tokens have alike; 0.05 to 0.2
    focal: float = 0.0  # what is known already counts less, by this power of what is missing; 0, or 1 to 5
    contrastive: float = 0.0  # labels: share of the loss that brings examples of one label together; 0.1 to 0.9
    temperature: float = 0.3  # of the contrastive loss; lower looks at the nearest examples only
    distil: Distil = field(default_factory=Distil)  # what another model would say is learned, token by token
    kto: Kto = field(default_factory=Kto)  # replies marked good or bad: how they are learned
    preference: Preference = field(default_factory=Preference)  # pairs: how a chosen and a rejected reply are learned
    reward: Reward = field(default_factory=Reward)  # task reward: how a reward model is learned from pairs
    policy: Policy = field(default_factory=Policy)  # rewards: how many replies are sampled, and how they are learned


def objective(goal: Goal, classes: Mapping[str, int]) -> Objective:
    """`classes`: the label of each training example by its id, for the contrastive loss."""
    inner = Smoothed(goal.smoothing) if goal.smoothing else Focal(goal.focal) if goal.focal else SFT()
    if goal.distil.share:
        return Distilled(inner, goal.distil)
    return Contrastive(inner, classes, goal.contrastive, goal.temperature) if goal.contrastive else inner
