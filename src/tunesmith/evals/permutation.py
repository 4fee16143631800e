"""Swap the two outputs of a case, or of a whole group, and recompute: the paired permutation test of any metric.

A metric is a function `value` of summed per-case statistics ([..., K] -> [...]; a mean has K = 2: score and count),
so ten thousand swaps are one matrix product. For a mean of case scores the swap is the sign flip of the difference.

Shifts, for the interval: the effect `shift` moves with the outputs, so after swapping a share of the cases the tuned
side keeps (1 - 2 share) of it, and "the true effect is shift" is rejected when |swapped effect - (1 - 2 share) shift|
is rarely as large as |effect - shift|. For a mean this is exactly the sign-flip test of mean(d - shift). A metric
that is not a mean has another slope around the pooled outputs (which swapping explores) than around each model's own
score, so for shift between 0 and the effect the swapped effect is interpolated to its linear part around the two
scores as observed (infinitesimal jackknife): at 0 it is the swap test and nothing else, at the effect it is the
spread that the two scores really have. (Without it intervals of large effects cover at 100%: BLEU up by 75 points.)

Few differing units show too little of their own spread, and an interval from them alone covers too little (measured:
0.89 where 6 of 60 cases differ, 0.88 where 1 or 2 of 12 groups do). So away from 0 one unit more is flipped along, as
unlike as the most unlike one seen; its weight grows from none at shift 0 to whole at the effect, and its part fades
as units get many. Fewer than ten differing units leave their own number uncertain as well, which `sparse.py` bounds:
away from 0 the larger of both p counts. Where no unit differs from another at all, a true effect that is `shift` in
place of `effect` needs at least |shift - effect| / span of all units to be unlike these, and p is the chance of having
met none: +-3/n for no difference in n cases at level 0.05.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunesmith.evals.sparse import p_of, reach

Value = Callable[[np.ndarray], np.ndarray]
MAX_EXACT_UNITS = 13  # 2^12 distinct splits, each with both signs of the added unit; above, splits are drawn
CHUNK = 2_000_000  # elements of the block of swaps held as float64
FLAT = 1e-7  # of the span; a spread below it is rounding of the finite differences
TIE = 1e-10  # relative; two sums that differ by rounding alone count as equal, which is the cautious side
ROUNDING = 1e-12  # of the span: what an effect, a difference of two far larger scores, is off by at most


@dataclass(frozen=True, slots=True)
class Flips:
    """R swaps of one comparison, or of a batch of comparisons with equal units (leading axes). R: swaps drawn."""

    effect: np.ndarray  # [...] tuned minus base as observed
    swapped: np.ndarray  # [..., R] the effect after the swap
    linear: np.ndarray  # [..., R] its linear part around the observed scores
    kept: np.ndarray  # [R] share of a shift that stays on the tuned side less the share that goes over, in [-1, 1]
    contribution_G: np.ndarray  # [..., G] of each unit to effect, centred: sum 0
    extra: np.ndarray  # [R] sign of the added unit
    reach: np.ndarray  # [..., 2, Z] of the limits where few units differ (`sparse.py`)
    num_differing: np.ndarray  # [...] units whose outputs differ
    span: float  # of the metric
    is_exact: bool


def swaps(num_units: int, num_flips: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """[R, 1 + G] of 0/1, 1 = swapped, without the split as observed; and whether these are all there are. Column 0 is
    the added unit.

    A split and its complement give the same |effect|, so the last unit stays in the exact list.
    """
    if num_units <= MAX_EXACT_UNITS:
        code = np.arange(1, 2**num_units, dtype=np.int64)
        return ((code[:, None] >> np.arange(1 + num_units)) & 1).astype(np.uint8), True
    packed = rng.integers(0, 256, size=(num_flips, (num_units + 8) // 8), dtype=np.uint8)
    return np.unpackbits(packed, axis=1, count=1 + num_units), False


def subset_sums(swap_RG: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """[..., R, K]: what the swapped units amount to, of amount [..., G, K]."""
    num_flips, num_units = swap_RG.shape
    amount_G = np.moveaxis(amount, -2, 0)  # one product for a whole batch: several times as fast as one for each
    rest = amount_G.shape[1:]
    amount_G = amount_G.reshape(num_units, -1)
    step = max(1, CHUNK // max(num_units, 1))
    parts = [swap_RG[k : k + step].astype(np.float64) @ amount_G for k in range(0, num_flips, step)]
    return np.moveaxis(np.concatenate(parts).reshape(num_flips, *rest), 0, -2)


def summed(amount: np.ndarray) -> np.ndarray:
    """[..., K]: over all units of [..., n, K]; as a product five times as fast as numpy's sum of short rows."""
    return np.ones(amount.shape[-2]) @ amount


def by_unit(amount: np.ndarray, unit_n: np.ndarray | None) -> np.ndarray:
    """Sum [..., n, K] over the cases of each unit: [..., G, K]. None: each case is its own unit."""
    if unit_n is None:
        return amount
    order = np.argsort(unit_n, kind="stable")
    first = np.flatnonzero(np.diff(unit_n[order], prepend=-1))
    return np.add.reduceat(amount[..., order, :], first, axis=-2)


def contributions(stats: np.ndarray, value: Value) -> np.ndarray:
    """[..., n]: what each case contributes to value(sum), to first order, centred (infinitesimal jackknife)."""
    total = summed(stats)[..., None, :]
    step = 1e-5 * stats.shape[-2]
    slope = (value(total + step * stats) - value(total - step * stats)) / (2 * step)
    return slope - slope.mean(axis=-1, keepdims=True)


def flip(
    base: np.ndarray,
    tuned: np.ndarray,
    value: Value,
    span: float,
    unit_n: np.ndarray | None = None,
    num_flips: int = 9_999,
    seed: int = 0,
) -> Flips:
    """Swap per-case statistics ([..., n, K] each) by case or by unit; the same seed draws the same swaps."""
    num_cases = base.shape[-2]
    base_sum, tuned_sum = summed(base), summed(tuned)
    effect = value(tuned_sum) - value(base_sum)
    own = contributions(tuned, value) - contributions(base, value)
    contribution_G = by_unit(own[..., None], unit_n)[..., 0]
    size_G = by_unit(np.ones((num_cases, 1)), unit_n)[:, 0] / num_cases
    drawn, is_exact = swaps(len(size_G), num_flips, np.random.default_rng(seed))
    swap_RG = drawn[:, 1:]
    # one product for everything: the K statistics and the unit's linear part
    linear_G = contribution_G + effect[..., None] * size_G
    lost = base - tuned
    differs_G = by_unit(np.abs(lost) @ np.ones((lost.shape[-1], 1)), unit_n)[..., 0] > 0
    moved = subset_sums(swap_RG, np.concatenate([by_unit(lost, unit_n), linear_G[..., None]], axis=-1))
    over = moved[..., :-1]
    return Flips(
        effect=effect,
        swapped=value(tuned_sum[..., None, :] + over) - value(base_sum[..., None, :] - over),
        linear=effect[..., None] - 2 * moved[..., -1],
        kept=1 - 2 * subset_sums(swap_RG, size_G[:, None])[:, 0],
        contribution_G=contribution_G,
        extra=1.0 - 2.0 * drawn[:, 0],
        reach=reach(linear_G, differs_G),
        num_differing=differs_G.sum(axis=-1),
        span=span,
        is_exact=is_exact,
    )


def p_at(flips: Flips, shift: float | np.ndarray) -> np.ndarray:
    """[...] two-sided p of "the true effect is shift". The split as observed counts as one of the R + 1."""
    shift = np.broadcast_to(np.asarray(shift, dtype=float), flips.effect.shape)
    towards = np.where(flips.effect == 0, shift != 0, shift / np.where(flips.effect == 0, 1, flips.effect))[..., None]
    effect = flips.swapped + np.clip(towards, 0, 1) * (flips.linear - flips.swapped)
    largest = np.abs(flips.contribution_G).max(axis=-1)
    # signed by the side that the shift is on, so that naming the two models the other way round mirrors everything
    side = np.where(shift > flips.effect, -1.0, 1.0)[..., None]
    extra = np.clip(np.abs(towards), 0, 1) * side * largest[..., None] * flips.extra
    there = np.abs(effect - flips.kept * shift[..., None] + extra)
    seen = np.abs(flips.effect - shift)[..., None]
    rounding = np.maximum(TIE * np.maximum(np.abs(flips.effect), np.abs(shift)), ROUNDING * flips.span)[..., None]
    p = (1 + (there >= seen - rounding).sum(axis=-1)) / (1 + there.shape[-1])
    p = np.where(shift != 0, np.maximum(p, p_of(flips.reach, shift - flips.effect)), p)
    num_units = flips.contribution_G.shape[-1]
    unlike = np.minimum(np.abs(shift - flips.effect) / flips.span, 1)
    return np.where(is_flat(flips) & (shift != 0), np.maximum(p, (1 - unlike) ** num_units), p)


def is_flat(flips: Flips) -> np.ndarray:
    """[...] whether all units speak alike (most often: no unit differs at all), so that they show no spread."""
    return np.abs(flips.contribution_G).max(axis=-1) * flips.contribution_G.shape[-1] <= FLAT * flips.span
