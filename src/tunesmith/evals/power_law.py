"""How a score goes with the number of rows learned from: a + b n^-c, with what noise leaves open of it.

Hestness et al. 2017 ("Deep Learning Scaling is Predictable, Empirically", arXiv:1712.00409). b may have either sign:
more rows may do harm, and where they do nothing the interval of what twice as many bring holds zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SIZES = 4  # one more than the law has numbers
EXPONENTS = np.geomspace(0.05, 2.0, 60)  # that are tried: from nearly a logarithm to one that is flat after two sizes
LEVEL = 0.95


def least_squares(sizes_R: np.ndarray, values_BR: np.ndarray) -> np.ndarray:
    """[B, 3] of (a, b, c), b for sizes in units of the largest: of each c the best line, and of these the best one."""
    top = sizes_R.max()
    best_B = np.full(len(values_BR), np.inf)
    found = np.zeros((len(values_BR), 3))
    for c in EXPONENTS:
        design = np.stack([np.ones_like(sizes_R), (sizes_R / top) ** -c], axis=1)
        line_B2 = values_BR @ np.linalg.pinv(design).T
        rest_B = ((values_BR - line_B2 @ design.T) ** 2).sum(1)
        is_better = rest_B < best_B
        best_B[is_better] = rest_B[is_better]
        found[is_better] = np.column_stack([line_B2[is_better], np.full(int(is_better.sum()), c)])
    return found


def at(laws_B3: np.ndarray, rows: float, top: float) -> np.ndarray:
    """[B] what the laws say of so many rows."""
    a, b, c = laws_B3.T
    found: np.ndarray = a + b * (rows / top) ** -c
    return found


@dataclass(frozen=True, slots=True)
class Curve:
    """`law` [3]: that of the values as they were measured; `draws` [B, 3]: laws that noise could have made of them.

    What it says stays within `bounds`, those of the score.
    """

    top: float  # the largest size
    law: np.ndarray
    draws: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def of(self, rows: float) -> float:
        return float(np.clip(at(self.law[None], rows, self.top), *self.bounds)[0])

    def interval(self, rows: float) -> tuple[float, float]:
        """Of the score at so many rows."""
        return ends(np.clip(at(self.draws, rows, self.top), *self.bounds))

    def change(self, before: float, after: float) -> tuple[float, float]:
        """Interval of the change between two numbers of rows, as far as there is room for it. Laws that have left the
        bounds are not held back there: they would seem to change nothing."""
        low, high = ends(at(self.draws, after, self.top) - at(self.draws, before, self.top))
        least, most = (bound - self.of(before) for bound in self.bounds)
        return float(np.clip(low, least, most)), float(np.clip(high, least, most))

    @property
    def exponents(self) -> tuple[float, float]:
        return ends(self.draws[:, 2])

    @property
    def is_determined(self) -> bool:
        """Whether the data tell the exponent: its interval ends inside what is tried."""
        low, high = self.exponents
        return bool(low > EXPONENTS[0] and high < EXPONENTS[-1])


def ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def curve(
    sizes: Sequence[float], values: Sequence[float], other_cases_BR: np.ndarray, seed: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Curve:  # fmt: skip
    """`other_cases_BR`: the values on other draws of the cases, the same draw for all sizes.

    Training is noise too (which rows, in which order), and no draw of cases shows it: how far the values stand off the
    law says how large it is, with as little certainty as there are sizes left over.
    """
    sizes_R, values_R = np.asarray(sizes, float), np.asarray(values, float)
    num_left = len(sizes_R) - 3
    assert num_left >= 1, f"{len(sizes_R)} sizes for a law of three numbers"
    law = least_squares(sizes_R, values_R[None])
    fitted_R = np.array([at(law, n, sizes_R.max())[0] for n in sizes_R])
    draw = np.random.default_rng(seed)
    num = len(other_cases_BR)
    scale_B1 = np.sqrt(((values_R - fitted_R) ** 2).sum() / draw.chisquare(num_left, (num, 1)))
    noise_BR = (other_cases_BR - values_R) + scale_B1 * draw.standard_normal((num, len(sizes_R)))
    return Curve(float(sizes_R.max()), law[0], least_squares(sizes_R, fitted_R + noise_BR), bounds)


def other_cases(sums: Sequence[np.ndarray], units: Sequence[str], num: int, seed: int) -> list[np.ndarray]:
    """Of each size [B, K]: the sums [n, K] of cases over B draws of whole units (a case, or a group of them)."""
    names = {name: i for i, name in enumerate(dict.fromkeys(units))}
    of_unit = np.array([names[u] for u in units])
    draw = np.random.default_rng(seed)
    times_BU = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num).astype(float)
    return [times_BU[:, of_unit] @ each for each in sums]
