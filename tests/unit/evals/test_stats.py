"""Tests, intervals and planning figures against values worked out by hand or published."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from tunesmith.evals import mcnemar, permutation, stats
from tunesmith.evals.metrics import mean_of


def as_stats(scores):
    return np.stack([np.asarray(scores, float), np.ones(len(scores))], -1)


def flips_of(differences, unit_n=None, **options):
    return permutation.flip(
        as_stats(np.zeros(len(differences))), as_stats(differences), mean_of, 1.0, unit_n, **options
    )


def interval_of(flips, alpha=0.05):
    return stats.invert(lambda s: float(permutation.p_at(flips, s)), float(flips.effect), flips.span, alpha)


def test_mid_p_mcnemar_by_hand():
    # 1 : 8 of 9: 2 * (P(0) + P(1) / 2) = 2 * (1 + 4.5) / 512
    assert mcnemar.p_at(1, 8, 50, 0.0) == pytest.approx(11 / 512)
    assert mcnemar.p_at(8, 1, 50, 0.0) == pytest.approx(11 / 512)
    assert mcnemar.p_at(4, 4, 50, 0.0) == 1
    assert mcnemar.p_at(0, 0, 50, 0.0) == 1
    assert mcnemar.p_at(4, 0, 50, 0.0) == pytest.approx(0.0625)
    # Fagerland et al. 2013, airway hyper-responsiveness: 1 against 7 discordant pairs, mid-p 0.039
    assert mcnemar.p_at(1, 7, 21, 0.0) == pytest.approx(0.039, abs=5e-4)


def test_mcnemar_interval_without_discordance_is_the_rule_of_three():
    interval = stats.invert(lambda s: float(mcnemar.p_at(0, 0, 300, s)), 0.0, 1.0, 0.05)
    assert interval == pytest.approx((-(1 - 0.05 ** (1 / 300)), 1 - 0.05 ** (1 / 300)))


def test_mcnemar_family_when_all_cases_are_won_is_the_binomial():
    # psi is 1, so only the binomial of won cases is left: theta^n = alpha at the end
    low, high = stats.invert(lambda s: float(mcnemar.p_at(20, 0, 20, s)), 1.0, 1.0, 0.05)
    assert (low, high) == pytest.approx((2 * 0.05 ** (1 / 20) - 1, 1.0))


def test_mcnemar_interval_is_near_the_score_interval():
    # Tango 1998: 43 : 12 of 100 by the plain score statistic, solved here by bisection
    def tango(shift):
        q = float(mcnemar.restricted_loss_rate(np.array(43.0), np.array(12.0), 100, np.array(shift)))
        return (43 - 12 - 100 * shift) / math.sqrt(100 * (2 * q + shift * (1 - shift)))

    def solve(target, a, b):
        for _ in range(60):
            a, b = ((a + b) / 2, b) if tango((a + b) / 2) > target else (a, (a + b) / 2)
        return a

    ours = stats.invert(lambda s: float(mcnemar.p_at(43, 12, 100, s)), 0.31, 1.0, 0.05)
    assert ours == pytest.approx((solve(1.96, 0.0, 0.31), solve(-1.96, 0.31, 0.9)), abs=0.006)


def test_restricted_estimate_is_the_likelihoods_maximum():
    won, lost, num, shift = 7.0, 3.0, 40, 0.2
    rate = np.linspace(1e-6, 0.4 - 1e-6, 400_001)
    likelihood = won * np.log(rate + shift) + lost * np.log(rate) + (num - won - lost) * np.log(1 - 2 * rate - shift)
    found = mcnemar.restricted_loss_rate(np.array(won), np.array(lost), num, np.array(shift))
    assert float(found) == pytest.approx(rate[likelihood.argmax()], abs=2e-6)


def test_sign_flip_p_is_the_full_enumeration():
    differences = np.array([0.3, -0.1, 0.25, 0.4, 0.0, 0.15, 0.2])
    every = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=7)]
    wanted = np.mean([total >= abs(differences.sum()) - 1e-12 for total in every])
    assert permutation.p_at(flips_of(differences), 0.0) == pytest.approx(wanted, abs=1e-12)
    # 2 ^ 13 splits by hand are too many to list; the drawn ones must come near the exact p
    many = np.tile(differences, 3)
    code = (np.arange(2**20)[:, None] >> np.arange(20)) & 1
    totals = np.abs((1 - 2 * code) @ many[:20] + many[20])
    assert permutation.p_at(flips_of(many), 0.0) == pytest.approx((totals >= many.sum() - 1e-9).mean(), abs=2e-3)


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9])
def test_ties_of_tiny_effects_are_not_broken_by_rounding(tiny):
    """Five of a hundred scores gain a little: p is 2/32. With a tolerance relative to the effect alone, one in six of
    these comparisons has 0.03 and less."""
    rng = np.random.default_rng(4)
    for seed in range(30):
        base = rng.random(100)
        tuned = base + np.where(np.arange(100) < 5, tiny * rng.random(100), 0.0)
        flips = permutation.flip(as_stats(base), as_stats(tuned), mean_of, 1.0, None, 1999, seed)
        assert permutation.p_at(flips, 0.0) > 0.0625 - 3.5 * 0.0054


def test_flips_of_groups_move_together():
    differences = np.array([0.5, 0.3, 0.2, -0.1, 0.4, 0.1])
    unit_n = np.array([0, 0, 1, 1, 2, 2])
    sums = np.array([0.8, 0.1, 0.5])
    every = [abs(np.dot(signs, sums)) for signs in itertools.product((1, -1), repeat=3)]
    wanted = np.mean([total >= sums.sum() - 1e-12 for total in every])
    assert permutation.p_at(flips_of(differences, unit_n), 0.0) == pytest.approx(wanted) == 0.25


def test_inverted_interval_is_near_students():
    differences = np.random.default_rng(3).normal(0.05, 0.1, 400)
    low, high = interval_of(flips_of(differences))
    half = 1.966 * differences.std(ddof=1) / 20
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.1 * half)


def test_same_seed_same_interval():
    differences = np.random.default_rng(4).normal(size=100) / 10
    assert interval_of(flips_of(differences, seed=7)) == interval_of(flips_of(differences, seed=7))
    assert interval_of(flips_of(differences, seed=7)) != interval_of(flips_of(differences, seed=8))


def test_contributions_of_a_mean_are_the_centred_scores():
    scores = np.array([0.2, 0.9, 0.4])
    assert permutation.contributions(as_stats(scores), mean_of) == pytest.approx((scores - 0.5) / 3, abs=1e-9)


def test_holm_by_hand():
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm([0.9, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []


@pytest.mark.parametrize("effect", [0.3, 0.1, 0.02, 0.005])
def test_cases_that_find_an_effect_are_the_fewest(effect: float) -> None:
    """Round trip. Mutants: rounded down; the limit of the discordance left out."""
    for discordance in (0.05, 0.3):
        num = stats.cases_for_binary(effect, discordance)
        assert stats.detectable_binary(num, discordance) <= effect
        assert num == 1 or stats.detectable_binary(num - 1, discordance) > effect
    num = stats.cases_for_mean(effect, 0.25)
    assert stats.detectable_mean(0.25 / num**0.5) <= effect < stats.detectable_mean(0.25 / (num - 1) ** 0.5)


def test_detectable_effects_by_hand():
    # n = z^2 (p_d - d^2) / d^2 with z = 1.95996 + 0.84162: 0.2 of 300 cases
    d = stats.detectable_binary(300, 0.2)
    assert 7.8489 * (0.2 - d**2) / d**2 == pytest.approx(300, rel=1e-4)
    assert stats.detectable_binary(20, 0.1) == pytest.approx(7.8489 / 27.8489, rel=1e-4)  # more than 0.1: all one way
    assert stats.detectable_mean(0.01) == pytest.approx(0.0280159, rel=1e-4)
    assert list(stats.detectable_range(300)) == [0.1, 0.2, 0.3, 0.5]


def test_wilson_by_hand():
    right = np.r_[np.ones(8), np.zeros(2)]
    low, high = stats.score_interval(0.8, (right - 0.8) / 10, (0.0, 1.0), is_binary=True)
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    low, high = stats.score_interval(1.0, np.zeros(10), (0.0, 1.0), is_binary=True)
    assert (low, high) == pytest.approx((1 / (1 + 1.959964**2 / 10), 1.0))


def test_score_interval_of_a_mean_covers():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        scores = rng.beta(0.4, 0.8, 60)
        interval = stats.score_interval(scores.mean(), (scores - scores.mean()) / 60, (0.0, 1.0), is_binary=False)
        hits += interval[0] <= 1 / 3 <= interval[1]
    assert 930 <= hits <= 970


def test_mcnemars_size_is_what_the_binomial_says():
    # by enumeration at discordance 0.2 of 100: the mid-p test errs at 4.6%, the exact one at 3%
    size = {"mid": 0.0, "exact": 0.0}
    for m in range(101):
        won = np.arange(m + 1)
        weight = binom.pmf(m, 100, 0.2) * binom.pmf(won, m, 0.5)
        size["mid"] += weight[mcnemar.p_at(won, m - won, 100, 0.0) < 0.05].sum()
        exact = 2 * np.minimum(binom.cdf(won, m, 0.5), binom.sf(won - 1, m, 0.5))
        size["exact"] += weight[exact < 0.05].sum()
    assert 0.04 < size["mid"] < 0.055
    assert size["exact"] < 0.035
