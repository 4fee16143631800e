"""Seeds as units: hand-worked values, coverage by simulation, variances that are found again."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals.seeds import FEWEST, all_signs, over_seeds, p_of, variances


def test_six_equal_signs_give_the_smallest_p() -> None:
    found = over_seeds([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.05)
    assert found.p == pytest.approx(2 / 64)
    assert found.mean == pytest.approx(0.35)
    assert 0.09 < found.interval[0] < 0.25
    assert found.interval[0] + found.interval[1] == pytest.approx(0.7)  # mirrored data, mirrored interval


def test_five_seeds_can_prove_nothing() -> None:
    found = over_seeds([0.1, 0.2, 0.3, 0.4, 0.5], 0.05)
    assert found.p == pytest.approx(2 / 2 ** (FEWEST - 1))
    assert found.interval == (-np.inf, np.inf)


def test_test_and_interval_never_disagree() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        effects = rng.normal(rng.choice([0, 0.5]), 1, size=rng.integers(6, 10))
        found = over_seeds(effects.tolist(), 0.05)
        assert (found.p < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])


def test_rejects_at_its_level_and_covers() -> None:
    rng = np.random.default_rng(0)
    signs = all_signs(8)
    wrong = np.mean([p_of(row, signs) < 0.05 for row in rng.normal(size=(4000, 8))])
    assert 0.03 < wrong < 0.06
    covers = [low <= 0.7 <= high for low, high in (
        over_seeds((0.7 + row).tolist(), 0.05).interval for row in rng.normal(size=(300, 8)))]  # fmt: skip
    assert np.mean(covers) > 0.92


def test_variances_are_found_again() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        gain = rng.normal(0, 2, (7, 1)) + rng.normal(0, 3, (1, 90)) + rng.normal(0, 1, (7, 90))
        parts = variances(gain)
        found.append((parts.seeds, parts.cases, parts.rest))
    assert np.mean(found, axis=0) == pytest.approx([4, 9, 1], rel=0.1)
    assert variances(np.ones((3, 5))) == variances(np.zeros((3, 5)))


def test_hand_worked_variances() -> None:
    parts = variances(np.array([[0.0, 1.0], [2.0, 3.0]]))  # rows 2 apart, columns 1 apart, nothing left
    assert (parts.seeds, parts.cases, parts.rest) == pytest.approx((2.0, 0.5, 0.0))
    assert parts.of_mean(2, 2) == pytest.approx((1.0, 0.25, 0.0))
