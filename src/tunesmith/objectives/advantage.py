"""How much better a completion was than the others that were sampled for its prompt, or one of its tokens than was
expected. Nothing is learned through it.

A group whose rewards are all the same teaches nothing: its advantages are 0 to the bit, decided by max == min and never
by a spread that rounding makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPS = 1e-4  # beside the spread, in the reward's unit
LEAST = 1e-8  # the same of the advantages of an update's tokens, which are many


def is_flat(rewards_G: Sequence[float]) -> bool:
    """Whether all are the same."""
    return max(rewards_G) == min(rewards_G)


def centred(rewards_G: Sequence[float]) -> np.ndarray:
    """[G] r - mean. Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO): a spread would favour prompts that are nearly solved,
    or nearly never."""
    rewards = np.asarray(rewards_G, np.float64)
    return np.zeros_like(rewards) if is_flat(rewards_G) else rewards - rewards.mean()


def standardised(rewards_G: Sequence[float]) -> np.ndarray:
    """[G] (r - mean) / (std + eps), std over G. Shao et al. 2024, arXiv:2402.03300, section 4.1.2 (GRPO)."""
    return centred(rewards_G) / (np.std(rewards_G) + EPS)


def best_and_worst(rewards_G: Sequence[float]) -> np.ndarray:
    """[G] 1 for the first of the best, -1 for the first of the worst, 0 for all others: a pair to learn from."""
    found = np.zeros(len(rewards_G))
    if not is_flat(rewards_G):
        found[int(np.argmax(rewards_G))], found[int(np.argmin(rewards_G))] = 1.0, -1.0
    return found


def against_others(rewards_G: Sequence[float]) -> np.ndarray:
    """[G] r - the mean of the other G - 1. Ahmadian et al. 2024, arXiv:2402.14740 (RLOO)."""
    return centred(rewards_G) * len(rewards_G) / max(1, len(rewards_G) - 1)


def token_rewards(reward: float, logp_T: Sequence[float], ref_logp_T: Sequence[float], kl: float) -> np.ndarray:
    """[T] -kl (log pi - log ref) of each token of a reply; at the last one the reply's reward on top. Ouyang et al.
    2022, arXiv:2203.02155, eq. 2 (InstructGPT)."""
    rewards = -kl * (np.asarray(logp_T, np.float64) - np.asarray(ref_logp_T, np.float64))
    rewards[-1] += reward
    return rewards


def gae(
    rewards_T: Sequence[float] | np.ndarray, values_T: Sequence[float], gamma: float, gae_lambda: float
) -> np.ndarray:
    """[T] sum over k of (gamma lambda)^k d_{t+k}, with d_t = r_t + gamma V_{t+1} - V_t. V_t is what was expected before
    token t; behind the last one nothing is to come, also where the reply was cut off. Schulman et al. 2015,
    arXiv:1506.02438, eq. 16."""
    values = np.asarray(values_T, np.float64)
    found = np.asarray(rewards_T, np.float64) + gamma * np.append(values[1:], 0.0) - values
    for t in range(len(found) - 2, -1, -1):
        found[t] += gamma * gae_lambda * found[t + 1]
    return found


def moments(values_L: Sequence[float], weights_L: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation), each value by its weight; the deviation is exactly 0 where all are the same."""
    if is_flat(values_L):
        return float(values_L[0]), 0.0
    mean = float(np.average(values_L, weights=weights_L))
    return mean, float(np.average((np.asarray(values_L) - mean) ** 2, weights=weights_L)) ** 0.5
