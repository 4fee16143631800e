"""The value head of PPO: what a reply will still bring, from before each of its tokens on. It learns beside the policy,
on the same trunk, and is left behind when the model is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.types import Loss, Ratio, Rollouts


@dataclass(frozen=True, slots=True)
class Critic:
    gamma: float = 1.0  # what a reward counts one token earlier; 1: whole, however long the reply
    gae_lambda: float = 0.95  # how far what was sampled is believed, before the values are: 1 to its end, 0 one token
    clip: float = 0.2  # a value gains nothing from moving further than this from what it was, in the reward's unit
    weight: float = 0.1  # of the values' loss beside the policy's


def clipped_error(value: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((V - R)^2, (V' - R)^2) / 2 with V' = V held to `clip` around the old one. Ziegler et al. 2019,
    arXiv:1909.08593, in the authors' code; the paper of PPO has the square alone."""
    held = old + (value - old).clamp(-clip, clip)
    return torch.maximum((value - returns) ** 2, (held - returns) ** 2) / 2


def value_loss(value_L: Tensor, weight_L: Tensor, given: Rollouts, asked: Critic) -> Loss:
    """Summed over learned tokens by their weight."""
    assert given.value is not None, "a value head learns from what it said before"
    assert given.returns is not None, "a value head learns what came"
    old, returns = given.value.to(value_L), given.returns.to(value_L)
    weight_L = weight_L.to(value_L)
    error = (clipped_error(value_L, old, returns, asked.clip) * weight_L).sum()
    is_held = ((value_L - old).abs() > asked.clip).to(value_L)
    units = weight_L.sum(dtype=torch.float64)
    return Loss(
        asked.weight * error,
        {
            "value_loss": Ratio(error.detach().double(), units),
            "value_clipped_frac": Ratio((is_held * weight_L).detach().sum(dtype=torch.float64), units),
        },
    )
