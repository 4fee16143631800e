"""Calibration on cases whose true probabilities are known, because the labels were drawn from them."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals.calibration import (
    MIN_CASES,
    MIN_SURE,
    Calibration,
    choose_threshold,
    fit,
    fit_temperature,
    held_out,
    nll,
    probabilities,
    quality,
)


def drawn(num: int, temperature: float, seed: int = 0, num_labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [n, C] that are right once they are divided by `temperature`, and labels drawn from those."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (num, num_labels))
    shares = probabilities(true)
    gold = np.array([rng.choice(num_labels, p=p) for p in shares])
    return true * temperature, gold


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    logp, gold = drawn(4000, temperature)
    assert fit_temperature(logp, gold) == pytest.approx(temperature, rel=0.08)


def test_calibrated_is_better_on_cases_that_were_not_seen_and_the_mutant_without_temperature_is_worse() -> None:
    found = fit(*drawn(400, 3.0), target=0.9)
    facts = held_out(*drawn(4000, 3.0, seed=1), found)
    before, after = facts["before"], facts["after"]
    assert after["ece"] < 0.03 < 0.15 < before["ece"]
    assert after["brier"] < before["brier"] - 0.02
    assert after["nll"] < before["nll"] - 0.1
    mutant = Calibration(1.0, found.num_dev, found.target, found.threshold, found.sure)
    assert held_out(*drawn(4000, 3.0, seed=1), mutant)["after"] == before


def test_a_temperature_moves_no_answer() -> None:
    logp, _ = drawn(200, 2.0)
    assert (probabilities(logp, 0.3).argmax(1) == probabilities(logp, 7.0).argmax(1)).all()
    np.testing.assert_allclose(probabilities(logp, 0.3).sum(1), 1)


def test_where_every_dev_answer_is_right_some_doubt_stays() -> None:
    logp = np.tile([[-0.5, -2.0, -3.0]], (40, 1))
    temperature = fit_temperature(logp, np.zeros(40, dtype=int))
    assert 0.1 < temperature < 1.0
    assert probabilities(logp, temperature).max() < 1.0


def test_scores_by_hand() -> None:
    logp = np.log([[0.8, 0.2], [0.6, 0.4]])
    gold = np.array([0, 1])
    found = quality(logp, gold, 1.0)
    assert found["nll"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert found["ece"] == pytest.approx((abs(0.8 - 1) + abs(0.6 - 0)) / 2)
    assert [b["num_cases"] for b in found["bins"]] == [1, 1]
    assert nll(logp * 1000, np.array([0, 0])) == pytest.approx(0, abs=1e-9)  # far apart, and still finite


def test_the_threshold_is_the_lowest_that_keeps_the_promise() -> None:
    confidence = np.repeat([0.95, 0.8, 0.6, 0.3], 25)
    right = np.concatenate([np.ones(25), np.ones(25), [1] * 20 + [0] * 5, np.zeros(25)]).astype(bool)
    assert choose_threshold(confidence, right, 0.9) == (0.6, "chosen")  # 70 of 75 are right from 0.6 on
    assert choose_threshold(confidence, right, 0.95) == (0.8, "chosen")
    assert choose_threshold(confidence, right, 0.5) == (0.3, "chosen")  # all of them: nothing is unsure
    assert choose_threshold(confidence, ~right, 0.99) == (None, "none reaches the target")
    few = confidence[: MIN_CASES - 1]
    assert choose_threshold(few, np.ones(len(few), dtype=bool), 0.9) == (None, "too few dev cases")


def test_a_handful_of_lucky_answers_makes_no_threshold() -> None:
    confidence = np.concatenate([np.full(MIN_SURE - 1, 0.99), np.full(100, 0.5)])
    right = np.concatenate([np.ones(MIN_SURE - 1), np.zeros(100)]).astype(bool)
    assert choose_threshold(confidence, right, 0.9) == (None, "none reaches the target")


def test_what_is_said_of_one_probability() -> None:
    assert Calibration(1, 99, 0.9, 0.7, "chosen").is_unsure(0.6999) is True
    assert Calibration(1, 99, 0.9, 0.7, "chosen").is_unsure(0.7) is False
    assert Calibration(1, 99, 0.9, None, "none reaches the target").is_unsure(1.0) is True
    assert Calibration(1, 9, 0.9, None, "too few dev cases").is_unsure(1.0) is None


def test_too_few_dev_cases_are_not_called_calibrated_and_facts_come_back() -> None:
    small = fit(*drawn(MIN_CASES - 1, 3.0), target=0.9)
    assert not small.is_usable
    assert (small.temperature, small.sure) == (1.0, "too few dev cases")
    assert "accuracy_when_sure" not in held_out(*drawn(50, 3.0, seed=1), small)
    large = fit(*drawn(300, 3.0), target=0.8)
    assert Calibration.of(large.facts()) == large
    assert large.facts()["calibrated"] is True


def test_sure_answers_keep_about_what_was_promised() -> None:
    found = fit(*drawn(400, 2.0, seed=3), target=0.85)
    facts = held_out(*drawn(4000, 2.0, seed=4), found)
    assert facts["accuracy_when_sure"] > 0.8 > facts["accuracy"]
    assert 0 < facts["unsure_frac"] < 1
