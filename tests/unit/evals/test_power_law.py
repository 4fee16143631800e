"""The law of a score over the number of rows: it finds planted ones, and its interval holds the truth as often as it
says, also where training is noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tunesmith.evals import power_law
from tunesmith.evals.power_law import Curve, curve, least_squares, other_cases

SIZES = [32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]
CASES, TRAINING = 0.3, 0.02  # noise of a case at one size, and of a training


@pytest.mark.parametrize(("a", "b", "c"), [(0.9, -1.5, 0.4), (0.3, 4.0, 1.0), (1.2, 0.8, 0.15)])
def test_a_planted_law_is_found(a: float, b: float, c: float) -> None:
    values = np.array([a + b * n**-c for n in SIZES])
    found = curve(SIZES, values, np.tile(values, (50, 1)), 0)
    exponent = float(power_law.EXPONENTS[np.abs(np.log(power_law.EXPONENTS / c)).argmin()])
    assert found.law[2] == pytest.approx(exponent)
    assert found.of(2048) == pytest.approx(a + b * 2048**-c, abs=1e-3)
    low, high = found.change(1024, 2048)
    assert low == pytest.approx(b * (2048**-c - 1024**-c), abs=2e-3)
    assert high == pytest.approx(low, abs=2e-3)


def test_least_squares_by_hand() -> None:
    """At sizes 1, 2, 4 and exponent 2: a + b (n/4)^-2 = 1 + 1·(16, 4, 1)."""
    law = least_squares(np.array([1.0, 2.0, 4.0]), np.array([[17.0, 5.0, 2.0]]))[0]
    np.testing.assert_allclose(law, [1.0, 1.0, 2.0], rtol=1e-9)


def test_draws_of_cases_take_groups_whole_and_are_the_same_for_all_sizes() -> None:
    sums = np.array([[1.0, 1.0], [10.0, 1.0], [100.0, 1.0]])
    one, two = other_cases([sums, 2 * sums], ["x", "x", "y"], 200, 0)
    np.testing.assert_allclose(two, 2 * one)
    assert set(map(tuple, one.tolist())) == {(22.0, 4.0), (111.0, 3.0), (200.0, 2.0)}


def planted(draw: np.random.Generator, b: float, c: float) -> tuple[np.ndarray, np.ndarray]:
    """(values [R], values on other draws of the cases [B, R]) of a law with noise of cases and of training."""
    truth = 0.9 + b * np.array(SIZES) ** -c
    shared = draw.normal(0, CASES, 100)
    scores = truth[:, None] + shared + draw.normal(0, CASES, (6, 100)) + draw.normal(0, TRAINING, (6, 1))
    sums = [np.stack([row, np.ones(100)], axis=1) for row in scores]
    others = other_cases(sums, [str(i) for i in range(100)], 200, int(draw.integers(2**31)))
    return scores.mean(1), np.stack([s[:, 0] / s[:, 1] for s in others], axis=1)


def cases_alone(sizes: list[float], values: np.ndarray, others: np.ndarray, seed: int) -> Curve:
    """The mutant: the draws of cases are all the noise there is."""
    at = np.array(sizes)
    return Curve(at.max(), least_squares(at, values[None])[0], least_squares(at, others))


def held(make: Callable[..., Curve], b: float, c: float, num: int = 40) -> tuple[float, float]:
    """(how often the interval of what twice the rows bring holds the truth, how often it leaves zero out)."""
    draw, inside, claims = np.random.default_rng(1), 0, 0
    change = b * (2048**-c - 1024**-c)
    for seed in range(num):
        low, high = make(SIZES, *planted(draw, b, c), seed).change(1024, 2048)
        inside += low <= change <= high
        claims += low > 0 or high < 0
    return inside / num, claims / num


@pytest.mark.parametrize(("b", "c"), [(-3.0, 0.7), (-1.0, 0.2), (0.0, 1.0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(b: float, c: float) -> None:
    inside, claims = held(curve, b, c)
    assert inside >= 0.93
    if b == 0:
        assert claims <= 0.05  # nothing is claimed where there is nothing
    else:
        assert claims >= 0.9


def test_mutant_that_takes_cases_for_all_noise_is_found() -> None:
    inside, _ = held(cases_alone, -3.0, 0.7)
    assert inside < 0.93
    _, claims = held(cases_alone, 0.0, 1.0)
    assert claims > 0.05


def test_what_the_law_says_stays_within_the_bounds_of_the_score() -> None:
    values = np.array([0.2, 0.4, 0.6, 0.8])
    found = curve([1, 2, 4, 8], values, np.tile(values, (50, 1)), 0, (0.0, 1.0))
    assert found.of(64) == 1.0
    assert found.interval(1024) == (1.0, 1.0)
    assert found.change(512, 1024) == (0.0, 0.0)


def test_the_exponent_is_determined_only_where_the_values_tell_it() -> None:
    steep = np.array([0.9 - 1.5 * n**-0.5 for n in SIZES])
    flat = np.full(6, 0.7) + np.random.default_rng(0).normal(0, 0.01, 6)
    assert curve(SIZES, steep, np.tile(steep, (200, 1)), 0).is_determined
    assert not curve(SIZES, flat, np.tile(flat, (200, 1)), 0).is_determined


def test_a_law_that_has_left_the_bounds_is_no_sign_of_no_change() -> None:
    """Both draws are below 0 at 16 and 32 rows; held back at 0 there, they would say that nothing changes."""
    draws = np.array([[-4.0, 4.5, 0.5], [-5.0, 5.5, 0.5]])
    found = Curve(8.0, np.array([0.5, 0.0, 0.5]), draws, (0.0, 1.0))
    assert found.interval(16) == (0.0, 0.0)
    low, high = found.change(16, 32)
    assert low == -0.5  # as far as there is room
    assert high < 0
