"""One recipe, several seeds: what the method is worth, and how much of it is the luck of one training run.

Effects of seeds are units of their own (Dodge et al. 2020, https://arxiv.org/abs/2002.06305): the sign-flip test over
them and the interval that inverts it speak about the method, where a verdict speaks about one tuned model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

FEWEST = 6  # with 5 seeds the smallest two-sided p of a sign flip is 2/32 = 0.0625
MAX_EXACT = 14
NUM_DRAWN = 20_000
STEPS = 60  # of the bisection: the distance shrinks by 2^60


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """`interval` inverts the test; it is (-inf, inf) where so few seeds cannot reject anything at this level."""

    effects: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True, slots=True)
class Variances:
    """Of a case's gain under one seed: between seeds, between cases, and what is left (seed by case)."""

    seeds: float
    cases: float
    rest: float

    def of_mean(self, num_seeds: int, num_cases: int) -> tuple[float, float, float]:
        """The parts of the variance of the mean over so many seeds and cases."""
        return self.seeds / num_seeds, self.cases / num_cases, self.rest / (num_seeds * num_cases)


def fewest(level: float) -> int:
    """Seeds with which a sign flip can reject at this level: the smallest p of n is 2/2^n."""
    return next(num for num in range(2, 60) if 2.0 ** (1 - num) < level)


def over_seeds(effects: Sequence[float], alpha: float) -> OverSeeds:
    """Sign flips of the seeds' effects: every one up to 14 seeds, 20,000 drawn above."""
    effect_S = np.array(effects, dtype=float)
    signs_RS = all_signs(len(effect_S))
    mean = float(effect_S.mean())
    far = 1e3 * (float(np.abs(effect_S - mean).max()) + 1e-12)
    low = edge(effect_S, signs_RS, alpha, mean, mean - far)
    high = edge(effect_S, signs_RS, alpha, mean, mean + far)
    return OverSeeds(tuple(effects), mean, (low, high), p_of(effect_S, signs_RS))


def all_signs(num: int) -> np.ndarray:
    """[R, S] of +-1."""
    if num <= MAX_EXACT:
        return np.array(list(product((1.0, -1.0), repeat=num)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(NUM_DRAWN, num))
    return np.vstack([np.ones(num), drawn])


def p_of(shifted_S: np.ndarray, signs_RS: np.ndarray) -> float:
    """Two-sided p of "the mean is 0"; the signs as observed count."""
    seen = abs(shifted_S.sum())
    return float((np.abs(signs_RS @ shifted_S) >= seen - 1e-10 * max(seen, 1e-300)).mean())


def edge(effect_S: np.ndarray, signs_RS: np.ndarray, alpha: float, inside: float, outside: float) -> float:
    """Where p falls to alpha between a shift that is not rejected and one far away; infinite where none is."""
    if p_of(effect_S - outside, signs_RS) >= alpha:
        return float(np.inf if outside > inside else -np.inf)
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        if p_of(effect_S - middle, signs_RS) >= alpha:
            inside = middle
        else:
            outside = middle
    return outside


def variances(gain_SN: np.ndarray) -> Variances:
    """Two-way layout without repetition, method of moments (Searle, Casella, McCulloch 1992, section 4.3): at least 2
    seeds and 2 cases; a part that comes out below 0 is 0."""
    num_seeds, num_cases = gain_SN.shape
    seed_S, case_N, mean = gain_SN.mean(1), gain_SN.mean(0), gain_SN.mean()
    between_seeds = num_cases * ((seed_S - mean) ** 2).sum() / (num_seeds - 1)
    between_cases = num_seeds * ((case_N - mean) ** 2).sum() / (num_cases - 1)
    left = gain_SN - seed_S[:, None] - case_N[None] + mean
    rest = (left**2).sum() / ((num_seeds - 1) * (num_cases - 1))
    return Variances(
        max(0.0, (between_seeds - rest) / num_cases), max(0.0, (between_cases - rest) / num_seeds), float(rest)
    )
