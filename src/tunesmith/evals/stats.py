"""What every comparison is built from: an interval that cannot disagree with its test, Holm, detectable effects, and
the interval of one score by itself. The tests themselves are in `mcnemar.py` and `permutation.py`; docs/statistics.md
has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

DISCORDANCES = (
    0.1,
    0.2,
    0.3,
    0.5,
)  # what a plan announces for: the share of cases that only one of two models gets right
HALVINGS = 60  # of an interval no wider than twice the metric's span: ends are exact to 1e-15 of it


def invert(p_at: Callable[[float], float], effect: float, span: float, alpha: float) -> tuple[float, float]:
    """The interval of all shifts that the test does not reject, within [-span, span].

    `p_at(shift)` is the two-sided p of "the true effect is `shift`". 0 is looked at first and each end is then searched
    on the side of 0 where it must lie, so 0 is outside if and only if p_at(0) < alpha, even where p_at is a step
    function.
    """
    holds_zero = p_at(0.0) >= alpha

    def end(far: float) -> float:
        if effect != 0 and (far > 0) != (effect > 0):  # the end that lies towards 0, or beyond it
            rejected, kept = (far, 0.0) if holds_zero else (0.0, effect)
        else:
            assert holds_zero or effect != 0, "a test may not reject 0 when the effect is 0"
            rejected, kept = far, effect
        if rejected == far and p_at(far) >= alpha:
            return far
        for _ in range(HALVINGS):
            middle = (rejected + kept) / 2
            if middle in (rejected, kept):
                break
            rejected, kept = (rejected, middle) if p_at(middle) >= alpha else (middle, kept)
        return kept

    return end(-span), end(span)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values in the given order; a claim holds at family-wise level alpha where its value < alpha."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """alpha / (number of claims still open) for each, smallest p first; all after the first that stands keep its level.

    An interval at this level leaves 0 out if and only if Holm rejects, since a p that is not below the level at which
    the procedure ended is not below it for the rest either.
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    levels, has_ended, level = [alpha] * len(p_values), False, alpha
    for rank, k in enumerate(order):
        if not has_ended:
            level = alpha / (len(p_values) - rank)
            has_ended = p_values[k] >= level
        levels[k] = level
    return levels


def critical_sum(alpha: float, power: float) -> float:
    """z_{alpha/2} + z_{1 - power}: how many standard errors an effect must have to be found with this power."""
    return float(ndtri(power) - ndtri(alpha / 2))


def detectable_binary(num_cases: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of two paired proportions that is found with `power`, by n = z^2 (p_d - d^2) / d^2.

    A difference cannot exceed the discordance; where the formula would, the answer is z^2 / (n + z^2): that
    difference with all discordant cases in one direction.
    """
    z2 = critical_sum(alpha, power) ** 2
    return max(math.sqrt(z2 * discordance / (num_cases + z2)), z2 / (num_cases + z2))


def detectable_mean(standard_error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest mean difference that is found with `power`; `standard_error` = sd of the differences / sqrt(n)."""
    return critical_sum(alpha, power) * standard_error


def cases_for_binary(effect: float, discordance: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The fewest cases of which `detectable_binary` is at most `effect`."""
    z2 = critical_sum(alpha, power) ** 2
    return max(1, math.ceil(z2 * max(discordance / effect**2, 1 / effect) - z2))


def cases_for_mean(effect: float, spread: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The fewest cases of which `detectable_mean` is at most `effect`; `spread`: standard deviation of a difference."""
    return max(1, math.ceil((critical_sum(alpha, power) * spread / effect) ** 2))


def detectable_range(num_cases: int, alpha: float = 0.05, power: float = 0.8) -> dict[float, float]:
    """What a plan announces before training, for right/wrong metrics: discordance -> smallest detectable difference."""
    return {discordance: detectable_binary(num_cases, discordance, alpha, power) for discordance in DISCORDANCES}


def standard_error(contribution_G: np.ndarray) -> float:
    """Of a total that is the sum of these centred contributions of independent units (cases, or groups of cases)."""
    num_units = len(contribution_G)
    if num_units < 2:
        return math.inf
    return float(np.sqrt((contribution_G**2).sum() * num_units / (num_units - 1)))


def score_interval(
    value: float, contribution_G: np.ndarray, bounds: tuple[float, float], *, is_binary: bool, alpha: float = 0.05
) -> tuple[float, float]:
    """Interval of one score alone: Wilson's, with the number of cases replaced by the effective one.

    `contribution_G`: centred contribution of each unit to the score. The effective number is that of right/wrong
    cases with the standard error seen here; for plain right/wrong cases (`is_binary`, no groups) it is their number,
    and this is Wilson's interval itself. Otherwise Student's t takes the place of z. Never leaves the metric's
    bounds.
    """
    low, high = bounds
    num_units = len(contribution_G)
    if num_units < 2 and not is_binary:
        return bounds
    at = min(max((value - low) / (high - low), 0.0), 1.0)
    if is_binary:
        critical, cases = -ndtri(alpha / 2), float(num_units)
    else:
        critical = -stdtrit(num_units - 1, alpha / 2)
        error = standard_error(contribution_G) / (high - low)
        cases = at * (1 - at) / error**2 if at * (1 - at) > 0 and error > 1e-9 else float(num_units)
    c2 = critical**2
    centre = (at + c2 / (2 * cases)) / (1 + c2 / cases)
    half = critical / (1 + c2 / cases) * math.sqrt(at * (1 - at) / cases + c2 / (4 * cases**2))
    ends = max(centre - half, 0.0), min(centre + half, 1.0)
    return float(low + ends[0] * (high - low)), float(low + ends[1] * (high - low))
