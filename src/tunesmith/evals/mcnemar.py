"""Mid-p McNemar for right/wrong cases, as a family of tests of "the difference of the two proportions is `shift`".

At shift 0 it is the mid-p McNemar test (Fagerland, Lydersen, Laake 2013): `won` of won + lost discordant cases is
Binomial(won + lost, 1/2). Elsewhere the same conditional mid-p test is made at the restricted maximum-likelihood
estimate of the discordance (Tango 1998), and joined with the mid-p test of the number of discordant cases, which then
carries news too:

    won - lost - n shift  =  2 (won - m theta)  +  (2 theta - 1) (m - n psi),    m = won + lost, shift = psi (2 theta
    - 1)

The two parts are independent; their normal scores are added with the parts' standard deviations as weights. The
second weight is 0 at shift 0, so the interval of all shifts that are not rejected excludes 0 exactly when mid-p
McNemar's p < alpha. Rejected: Tango's interval itself (it is the inversion of another test, and disagrees with mid-p
near alpha: 4 : 0 gives p 0.046 against 0.063), and the conditional interval alone (it ignores that the discordance is
an estimate, and covers too little).
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, ndtr, ndtri

Counts = np.ndarray | int
FARTHEST = 37.0  # standard deviations; beyond, the tail of the normal is 0 in float64


def at_least(count: np.ndarray, num: Counts, chance: np.ndarray | float) -> np.ndarray:
    """P(Binomial(num, chance) >= count), for count from 0 to num + 1."""
    beyond = num - count + 1
    inside = betainc(np.maximum(count, 1), np.maximum(beyond, 1), chance)
    return np.where(count <= 0, 1.0, np.where(beyond <= 0, 0.0, inside))


def mid_p_tails(count: np.ndarray, num: Counts, chance: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """P(fewer) and P(more) of a Binomial(num, chance), each with half of P(as many)."""
    rest = num - count
    fewer = at_least(rest, num, 1 - chance) + at_least(rest + 1, num, 1 - chance)
    return fewer / 2, (at_least(count, num, chance) + at_least(count + 1, num, chance)) / 2


def mid_p_score(count: np.ndarray, num: Counts, chance: np.ndarray) -> np.ndarray:
    """Normal score of a Binomial(num, chance) count by its mid-p tails; larger counts give larger scores."""
    below, above = mid_p_tails(count, num, chance)
    score = np.where(below < above, ndtri(below), -ndtri(above))
    return np.clip(score, -FARTHEST, FARTHEST)


def restricted_loss_rate(won: np.ndarray, lost: np.ndarray, num_cases: int, shift: np.ndarray) -> np.ndarray:
    """Maximum-likelihood estimate of P(lost) where P(won) = P(lost) + shift, shift >= 0 (Tango 1998, eq. 5)."""
    linear = shift * (2 * num_cases - won + lost) - won - lost
    constant = -lost * shift * (1 - shift)
    root = np.sqrt(np.maximum(linear**2 - 8 * num_cases * constant, 0))
    return np.clip((root - linear) / (4 * num_cases), 0, 1)


def p_at(won: Counts, lost: Counts, num_cases: int, shift: float | np.ndarray) -> np.ndarray:
    """Two-sided p of "P(won) - P(lost) = shift"; all of won, lost and shift broadcast. `won`: cases only tuned gets
    right.
    """
    won, lost, signed = (np.asarray(a, dtype=float) for a in np.broadcast_arrays(won, lost, shift))
    is_negative = signed < 0  # the family is symmetric: name the two models the other way round
    won, lost = np.where(is_negative, lost, won), np.where(is_negative, won, lost)
    size = np.abs(signed)
    loss_rate = restricted_loss_rate(won, lost, num_cases, size)
    psi = np.clip(2 * loss_rate + size, 1e-300, 1)
    theta = np.where(size == 0, 0.5, np.clip((loss_rate + size) / psi, 0.5, 1))
    discordant = won + lost
    sd_within = np.sqrt(4 * discordant * theta * (1 - theta))
    sd_number = (2 * theta - 1) * np.sqrt(num_cases * psi * (1 - psi))
    total = np.sqrt(sd_within**2 + sd_number**2)
    joined = sd_within * mid_p_score(won, discordant, theta) + sd_number * mid_p_score(discordant, num_cases, psi)
    impossible = np.where(won - lost == num_cases * size, 0.0, FARTHEST)  # no randomness left under this shift
    score = np.where(total > 1e-12, joined / np.maximum(total, 1e-300), impossible)
    # at 0 the joined score is the first part alone: its p as it is, not by way of the normal and back
    at_zero = 2 * mid_p_tails(np.minimum(won, lost), discordant, 0.5)[0]
    return np.minimum(np.where(size == 0, at_zero, 2 * ndtr(-np.abs(score))), 1.0)
