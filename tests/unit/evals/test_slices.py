"""Slices: hand-worked effects, what is pooled, and that looking at many does not find what is not there."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals import mcnemar, slices
from tunesmith.evals.compare import Cases, Rules
from tunesmith.evals.metrics import METRICS

ACCURACY = METRICS["accuracy"]


def cases(base_right: list[int], tuned_right: list[int]) -> Cases:
    sides = [["yes" if right else "no" for right in rows] for rows in (base_right, tuned_right)]
    return Cases(["yes"] * len(base_right), *sides)


def two_files() -> tuple[Cases, dict[str, list[str | None]]]:
    """40 cases of a: 10 to 30 right; 30 of b: 24 to 4 right; 5 of c."""
    base = [1] * 10 + [0] * 30 + [1] * 24 + [0] * 6 + [0] * 5
    tuned = [1] * 30 + [0] * 10 + [1] * 4 + [0] * 26 + [1] * 5
    return cases(base, tuned), {"file": ["a"] * 40 + ["b"] * 30 + ["c"] * 5}


def test_effects_worst_slice_and_what_is_too_few_by_hand() -> None:
    compared, names = two_files()
    found = slices.of_slices(compared, ACCURACY, names, Rules())
    a, b = found["rows"]
    assert (a["name"], a["num_cases"], a["base"], a["tuned"]) == ("a", 40, 0.25, 0.75)
    assert (b["name"], b["effect"]) == ("b", pytest.approx(-20 / 30))
    assert found["too_few"] == [{"dimension": "file", "name": "c", "num_cases": 5}]
    assert (found["num_slices"], found["worst"]["name"]) == (2, "b")
    [said] = slices.notes(found, "better")
    assert "worse where the file is b: 0.8 → 0.133 on 30 cases" in said
    # each interval is that of mid-p McNemar at alpha / 2
    low, high = a["interval"]
    for end in (low, high):
        assert mcnemar.p_at(20, 0, 40, end) == pytest.approx(0.025, abs=2e-3)


def test_small_names_are_put_together_and_a_dimension_of_one_slice_is_left_out() -> None:
    names = ["a"] * 30 + ["b"] * 12 + ["c"] * 12 + [None] * 6
    large, few = slices.pooled(names)
    assert few == []
    assert large == ["a"] * 30 + ["2 small ones together"] * 24 + [None] * 6
    compared = cases([1] * 60, [1] * 60)
    found = slices.of_slices(compared, ACCURACY, {"file": ["a"] * 60, "group": [None] * 60}, Rules())
    assert (found["rows"], found["worst"], found["num_slices"]) == ([], None, 0)


def test_thirds_of_the_lengths_keep_equal_lengths_together() -> None:
    found = slices.terciles([1, 2, 3, 10, 11, 12, 50, 60, 70])
    assert found == ["up to 3 characters"] * 3 + ["4 to 12 characters"] * 3 + ["over 12 characters"] * 3
    assert set(slices.terciles([7] * 9)) == {"up to 7 characters"}


def test_languages_cut_the_cases_where_there_are_two() -> None:
    """A mutant that takes every guess for a language makes a slice of one stray case."""
    english = ["where is the parcel that you sent to me on the third of May"] * 30
    german = ["ich warte seit zwei Wochen auf mein Paket und es ist nicht da"] * 25
    russian = ["где моя посылка"] * 20
    assert slices.languages([*english, *german, *russian, "ok"]) == [
        *["English"] * 30, *["German"] * 25, *["in Cyrillic letters"] * 20, None,
    ]  # fmt: skip
    assert slices.languages([*english, *german[:3]]) == [None] * 33


def test_a_group_inside_is_its_cases_and_elsewhere_it_is_one_unit() -> None:
    base, tuned = [0] * 60, [1] * 15 + [0] * 15 + [1] * 15 + [0] * 15
    groups = ["x"] * 30 + ["y"] * 30
    compared = Cases(["1"] * 60, list(map(str, base)), list(map(str, tuned)), groups)
    found = slices.of_slices(compared, ACCURACY, {"group": groups, "half": ["p", "q"] * 30}, Rules())
    by_group = [r for r in found["rows"] if r["dimension"] == "group"]
    by_half = [r for r in found["rows"] if r["dimension"] == "half"]
    assert all(r["interval"][0] > 0 for r in by_group)  # 30 cases
    assert all(r["interval"][0] < 0 for r in by_half)  # 2 units


def test_the_gap_of_two_groups_is_newcombes_and_stands_once() -> None:
    """56/70 against 48/80: 0.2, 0.0524 to 0.3339 (Newcombe 1998, table II, column a, method 10)."""
    right = [1] * 56 + [0] * 14 + [1] * 48 + [0] * 32
    names = {"sex": ["f"] * 70 + ["m"] * 80}
    found = slices.of_slices(cases(right, right), ACCURACY, names, Rules(), ["sex"])
    [gap] = found["gaps"]
    assert (gap["name"], gap["num_cases"], gap["num_others"]) == ("f", 70, 80)
    assert gap["tuned"] == pytest.approx(0.2)
    assert gap["tuned_interval"] == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert gap["change"] == 0
    assert "differs by sex: f against the others +0.2" in slices.notes(found, "better")[0]


def test_a_gap_is_only_measured_where_the_user_names_the_column() -> None:
    compared, names = two_files()
    assert slices.of_slices(compared, ACCURACY, names, Rules())["gaps"] == []


def false_alarm_frac(num_slices: int, alpha: float) -> float:
    """Share of comparisons of two equal models in which any slice of 40 cases looks better or worse."""
    rng = np.random.default_rng(3)
    num = 4000
    won, lost = (rng.multinomial(40, [0.15, 0.15, 0.7], size=(num, num_slices))[..., k] for k in (0, 1))
    return float((mcnemar.p_at(won, lost, 40, 0.0) < alpha).any(axis=1).mean())


def test_looking_at_eight_slices_errs_as_often_as_said_and_the_mutant_without_correction_far_more() -> None:
    assert false_alarm_frac(8, 0.05 / 8) <= 0.06
    assert false_alarm_frac(8, 0.05) > 0.2


def test_square_and_add_covers_where_the_difference_of_means_would_shrink_to_nothing() -> None:
    (effect, (low, high)) = slices.apart((1.0, (0.84, 1.0)), (1.0, (0.84, 1.0)))
    assert effect == 0
    assert (low, high) == pytest.approx((-0.16, 0.16))
