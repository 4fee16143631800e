"""The train-dev gap by hand, its coverage, and replies that are recited."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals.out_of_scope import TEXTS, is_else, sure_share
from tunesmith.evals.out_of_scope import notes as scope_notes
from tunesmith.evals.overfit import by_unit, completed, gap, notes, welch

NONE = [None] * 10


def rows(before: float, after: float, spread: float = 0.1, num: int = 10) -> tuple[list[float], list[float]]:
    wave = [spread * (-1) ** k for k in range(num)]
    return [before + 3 * w for w in wave], [after + 2 * w for w in wave]


def test_welch_by_hand() -> None:
    """1, 2, 3 against 2, 4: difference -1, variance 1/3 + 2/2, 1.47 degrees of freedom."""
    difference, (low, high) = welch(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]), 0.05)
    assert difference == -1
    assert (low + high) / 2 == pytest.approx(-1)
    degrees = (1 / 3 + 1) ** 2 / ((1 / 3) ** 2 / 2 + 1**2 / 1)
    assert degrees == pytest.approx(1.684, abs=1e-3)
    assert high - low == pytest.approx(2 * 5.2 * (4 / 3) ** 0.5, rel=0.02)


def test_the_gap_is_what_training_rows_gained_more() -> None:
    found = gap(rows(3.0, 1.0), rows(3.2, 2.7), (NONE, NONE), 0.05)
    assert found is not None
    assert found["gap"] == pytest.approx(1.5)  # 2.0 on training rows, 0.5 on dev rows
    assert found["kept_frac"] == pytest.approx(0.25)
    assert found["interval"][0] > 1.0
    [said] = notes(found, None)
    assert said.startswith("over-fitted: the loss fell from 3.00 to 1.00 nats per token on training rows")


def test_a_set_that_was_harder_before_tuning_is_no_overfitting_and_the_mutant_that_ignores_that_says_it_is() -> None:
    train, dev = rows(2.0, 1.0), rows(4.0, 3.0)
    found = gap(train, dev, (NONE, NONE), 0.05)
    assert found is not None
    assert found["gap"] == pytest.approx(0)
    assert notes(found, None) == []
    mutant = gap(
        ([0.0] * 10, (-np.array(train[1])).tolist()), ([0.0] * 10, (-np.array(dev[1])).tolist()), (NONE,) * 2, 0.05
    )
    assert mutant is not None
    assert abs(mutant["gap"]) == pytest.approx(2.0)


def test_rows_of_a_group_are_one_unit_and_too_few_units_say_nothing() -> None:
    assert by_unit([1, 3, 5, 7], ["a", "a", None, "b"]).tolist() == [2, 5, 7]
    assert gap(rows(3, 1), rows(3, 1), (["a"] * 10, NONE), 0.05) is None


def test_what_was_gained_is_a_mean_over_units_like_the_gap() -> None:
    """One group of 40 rows that gained nothing, and 9 rows that gained 1: nine tenths, and not nine in 49."""
    groups: list[str | None] = ["a"] * 40 + [None] * 9
    found = gap(([1.0] * 49, [1.0] * 40 + [0.0] * 9), ([1.0] * 10, [1.0] * 10), (groups, NONE), 0.05)
    assert found is not None
    assert found["gained"] == pytest.approx(0.9)
    assert found["gap"] == pytest.approx(0.9)
    assert notes(found, None)


def test_the_gap_covers_its_truth() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(600):
        train, dev = rng.gamma(2.0, 0.5, 40) + 0.3, rng.gamma(2.0, 0.5, 25)
        found = gap((train.tolist(), [0.0] * 40), (dev.tolist(), [0.0] * 25), ([None] * 40, [None] * 25), 0.05)
        assert found is not None
        inside += found["interval"][0] <= 0.3 <= found["interval"][1]
    assert 0.93 <= inside / 600 <= 0.97


def test_what_is_completed_on_dev_too_is_no_recitation() -> None:
    yes, no = [True] * 18 + [False] * 2, [False] * 20
    [said] = notes(None, completed((no, yes), no, 0.05))
    assert "word for word in 90% of 20, those of dev in 0%" in said
    assert notes(None, completed((no, yes), yes, 0.05)) == []
    assert notes(None, completed((yes, yes), no, 0.05)) == []  # the base knew them before
    assert completed((no[:3], yes[:3]), yes, 0.05) is None


def test_sure_answers_out_of_scope_and_the_label_that_is_made_for_them() -> None:
    assert len(set(TEXTS)) == len(TEXTS) >= 32
    found = sure_share([True] * 24 + [False] * 8, ["sale"] * 32, 0.8, 0.05)
    assert found["sure_frac"] == 0.75
    assert found["interval"] == pytest.approx((0.5789, 0.8675), abs=1e-3)  # Wilson, 24 of 32
    assert "75% of 32 texts" in scope_notes(found)[0]
    assert sure_share([True] * 32, ["other"] * 32, None, 0.05)["sure_frac"] == 0
    assert [is_else(x) for x in ("Other", "none", "out_of_scope", "another", "nonexistent")] == [True] * 3 + [False] * 2
    assert scope_notes(sure_share([True] * 4 + [False] * 28, ["a"] * 32, None, 0.05)) == []
