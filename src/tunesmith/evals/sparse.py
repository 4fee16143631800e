"""How far an effect that rests on few differing units can be from the one observed: their number is uncertain too.

Swapping outputs shows how the units that differ might have come out, and little of how many there might have been. The
sum of the gains of a few units that differ is a weighted sum of Poisson counts, for which Fay and Feuer (1997,
Statistics in Medicine 16:791) give gamma limits: the upper one has a unit more, as heavy as the heaviest. Where all
weigh alike, the sum is a count and half of that unit is enough (a mid-p limit, after Fay and Kim 2017, Biometrical
Journal 59:377); the less alike they are, the likelier is an unseen one that is heavier still, and the more of it is
taken, up to the whole (`share`). Gains and losses each have their limits, joined as those of a difference of two
independent parts (MOVER, Zou and Donner 2008, Statistics in Medicine 27:1693).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaincinv, ndtr

FEW = 10  # differing units; with as many, swaps alone cover at 93 to 97% (docs/statistics.md)
MANY = 30  # units; among fewer, a differing one is not rare and no Poisson count, and swaps cover at 96% and more
SCORE_Z = np.linspace(0, 6, 61)  # normal scores at which the limits are worked out


def share(own: np.ndarray, num: np.ndarray) -> np.ndarray:
    """[B] of the added unit, for gains [B, G] of which `num` differ: 1/2 where they are alike, to 1 the less they are,
    by Kish's effective number per unit."""
    square = (own**2).sum(-1)
    return 1 - np.abs(own).sum(-1) ** 2 / (2 * num * np.where(square > 0, square, 1.0))


def limits(weight: np.ndarray, more: np.ndarray, more_square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far below and above the sum of weight [B, G] (0 or more) its limits lie, each [B, Z]. more, more_square [B]:
    what the added unit adds to mean and variance of the upper one."""
    tail = ndtr(-SCORE_Z)
    total, square = weight.sum(-1, keepdims=True), (weight**2).sum(-1, keepdims=True)
    low = np.where(total > 0, quantile(tail, total, square), 0.0)
    high = quantile(1 - tail, total + more[:, None], square + more_square[:, None])
    return np.maximum(total - low, 0), np.maximum(high - total, 0)


def quantile(chance: np.ndarray, total: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Of the gamma distribution with mean `total` and variance `square`."""
    some, spread = np.where(total > 0, total, 1.0), np.where(square > 0, square, 1.0)
    return np.where(total > 0, spread / some * gammaincinv(some**2 / spread, chance), 0.0)


def reach(gain_G: np.ndarray, differs_G: np.ndarray) -> np.ndarray:
    """[..., 2, Z]: how far below and above the observed effect each normal score reaches; 0 throughout where no unit
    differs, or FEW or more do, or all are less than MANY. gain_G: what each unit adds to the effect."""
    flat_G, differs = gain_G.reshape(-1, gain_G.shape[-1]), differs_G.reshape(-1, gain_G.shape[-1])
    found = np.zeros((len(flat_G), 2, len(SCORE_Z)))
    num = differs.sum(-1)
    few = np.flatnonzero((num > 0) & (num < FEW) & (gain_G.shape[-1] >= MANY))
    if len(few):
        own = np.where(differs[few], flat_G[few], 0.0)
        largest, part = np.abs(own).max(axis=-1), share(own, num[few])
        won_down, won_up = limits(np.maximum(own, 0), part * largest, part * largest**2)
        lost_down, lost_up = limits(np.maximum(-own, 0), part * largest, part * largest**2)
        found[few] = np.stack([np.hypot(won_down, lost_up), np.hypot(won_up, lost_down)], axis=1)
    return found.reshape(*gain_G.shape[:-1], 2, len(SCORE_Z))


def p_of(reach_Z: np.ndarray, away: np.ndarray) -> np.ndarray:
    """[...] two-sided p of a true effect that lies `away` from the observed one (above 0: above it); 0 where the reach
    is none."""
    own = np.where((away > 0)[..., None], reach_Z[..., 1, :], reach_Z[..., 0, :])
    distance = np.abs(away)[..., None]
    last = np.clip((own <= distance).sum(-1, keepdims=True) - 1, 0, len(SCORE_Z) - 2)
    low, high = np.take_along_axis(own, last, -1), np.take_along_axis(own, last + 1, -1)
    part = np.clip((distance - low) / np.where(high > low, high - low, 1.0), 0, 1)
    score = SCORE_Z[last] + part * (SCORE_Z[1] - SCORE_Z[0])
    return np.where(reach_Z.any(axis=(-2, -1)), 2 * ndtr(-score[..., 0]), 0.0)
