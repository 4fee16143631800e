"""Differences of differences by hand, their error rate, and the base at the floor."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals import brittle
from tunesmith.evals.brittle import Sides, difference, mean_shift, notes, of_changes
from tunesmith.evals.compare import Cases, Rules
from tunesmith.evals.metrics import METRICS

ACCURACY, RULES = METRICS["accuracy"], Rules()


def sides(base: int, tuned: int, base_changed: int, tuned_changed: int, num: int = 100) -> Sides:
    """So many of `num` cases right, the first ones."""
    rows = [["y"] * k + ["n"] * (num - k) for k in (base, tuned, base_changed, tuned_changed)]
    return Sides(["y"] * num, *rows)


def test_by_hand_tuned_loses_30_of_100_and_the_base_10() -> None:
    found = difference(sides(60, 90, 50, 60), ACCURACY, RULES)
    assert (found["base"], found["tuned"], found["base_changed"], found["tuned_changed"]) == (0.6, 0.9, 0.5, 0.6)
    assert found["base_loss"]["effect"] == pytest.approx(-0.1)
    assert found["tuned_loss"]["effect"] == pytest.approx(-0.3)
    assert found["difference"]["effect"] == pytest.approx(-0.2)
    assert found["difference"]["interval"][1] < 0


def test_equal_losses_are_no_brittleness_though_the_tuned_model_lost_much() -> None:
    [row] = of_changes({"typos": sides(90, 95, 60, 65)}, ACCURACY, RULES)
    assert row["tuned_loss"]["interval"][1] < 0
    assert notes([row], 0.02) == []


def test_a_base_at_the_floor_is_called_that_and_only_the_tuned_loss_counts() -> None:
    """The base has nothing to lose: what it loses or wins is noise, and the difference would be about that."""
    [row] = of_changes({"case": sides(50, 95, 50, 60)}, ACCURACY, RULES, is_floor=True)
    [said] = notes([row], 0.02)
    assert "at the floor and cannot lose" in said
    assert "0.95 → 0.6 on 100 cases" in said
    [mild] = of_changes({"case": sides(50, 95, 50, 94)}, ACCURACY, RULES, is_floor=True)
    assert notes([mild], 0.02) == []


@pytest.mark.parametrize(("right", "guess", "floor"), [(50, 0.5, True), (58, 0.5, True), (65, 0.5, False)])
def test_the_floor_of_labels_is_guessing(right: int, guess: float, floor: bool) -> None:
    """Wilson's lower end of 58 of 100 is 0.482, of 65 of 100 it is 0.552."""
    given = ["y"] * right + ["n"] * (100 - right)
    assert brittle.is_floor(Cases(["y"] * 100, given, given), ACCURACY, guess, 0.05) is floor


def test_texts_are_at_the_floor_when_they_share_next_to_nothing_with_the_reference() -> None:
    rouge = METRICS["rouge_l"]
    good, bad = ["the cat sat on the mat"] * 20, ["dogs"] * 20
    assert brittle.is_floor(Cases(good, bad, good), rouge, None, 0.05)
    assert not brittle.is_floor(Cases(good, good, bad), rouge, None, 0.05)


def test_of_a_corpus_metric_the_parts_add_up_to_it() -> None:
    rng = np.random.default_rng(0)
    references = [("a", "b", "c")[k] for k in rng.integers(0, 3, 60)]
    outputs = [r if rng.random() < 0.7 else "a" for r in references]
    for name in ("macro_f1", "accuracy", "chrf"):
        parts = brittle.parts(METRICS[name].stats(outputs, references), METRICS[name])
        assert parts.mean() == pytest.approx(METRICS[name].corpus(outputs, references), abs=1e-6)


def test_less_is_better_turns_the_sign_so_that_a_rise_is_a_loss() -> None:
    bits = METRICS["bits_per_byte"]
    plain, more = [(4.0,)] * 20, [(8.0,)] * 20
    found = difference(Sides(["abcd"] * 20, plain, plain, plain, more), bits, RULES)
    assert found["tuned_changed"] > found["tuned"]
    assert found["tuned_loss"]["effect"] < 0
    assert found["difference"]["effect"] < 0


def test_false_alarms_stay_at_alpha_where_both_models_lose_alike() -> None:
    rng = np.random.default_rng(1)
    num, rules = 200, Rules(num_flips=299)
    alarms = 0
    for _ in range(num):
        lost = [(rng.random(60) < 0.3).astype(float) - (rng.random(60) < 0.05) for _ in range(2)]
        alarms += mean_shift(lost[0] - lost[1], 2.0, None, rules)["p"] < 0.05
    assert alarms / num <= 0.05 + 2.5 * (0.05 * 0.95 / num) ** 0.5


def test_intervals_are_wider_the_more_changes_are_tried() -> None:
    one = of_changes({"a": sides(60, 90, 50, 60)}, ACCURACY, RULES)[0]["difference"]["interval"]
    both = of_changes({k: sides(60, 90, 50, 60) for k in "abcde"}, ACCURACY, RULES)[0]["difference"]["interval"]
    assert both[0] < one[0] < one[1] < both[1]
