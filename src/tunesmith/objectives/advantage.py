"""How much better a completion was than the others that were sampled for its prompt. Nothing is learned through it.

A group whose rewards are all the same teaches nothing: its advantages are 0 to the bit, decided by max == min and never
by a spread that rounding makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPS = 1e-4  # beside the spread, in the reward's unit


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


def against_others(rewards_G: Sequence[float]) -> np.ndarray:
    """[G] r - the mean of the other G - 1. Ahmadian et al. 2024, arXiv:2402.14740 (RLOO)."""
    return centred(rewards_G) * len(rewards_G) / max(1, len(rewards_G) - 1)
