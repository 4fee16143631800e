"""Metrics of marked replies: values worked out by hand; moving all alike is moving none."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals.compare import Cases, Rules, compare
from tunesmith.evals.metrics import METRICS

MOVED = [(2.0, 1.0), (0.5, 1.0), (-1.0, 1.0), (-3.0, 0.0)]  # two of three good ones up; the bad one down


def test_by_hand() -> None:
    accuracy, margin = METRICS["feedback_accuracy"], METRICS["feedback_margin"]
    nothing = [None] * 4
    assert accuracy.cases(MOVED, nothing) == [1, 1, 0, 1]
    assert accuracy.corpus(MOVED, nothing) == pytest.approx((2 / 3 + 1) / 2)
    assert margin.cases(MOVED, nothing) == [2, 0.5, -1, 3]
    assert margin.corpus(MOVED, nothing) == pytest.approx((0.5 + 3) / 2)
    assert accuracy.case((0.0, 1.0), None) == 0.5
    assert accuracy.corpus(MOVED[:3], nothing[:3]) == pytest.approx(2 / 3)  # of one mark alone


def test_moving_all_alike_is_moving_none() -> None:
    """Nine of ten are bad: a plain share would call a model that lowers everything right in 0.9."""
    down = [(-2.0, float(i % 10 == 0)) for i in range(50)]
    found = METRICS["feedback_accuracy"].corpus(down, [None] * 50)
    assert found == pytest.approx(0.5)
    assert np.mean(METRICS["feedback_accuracy"].cases(down, [None] * 50)) == pytest.approx(0.9)  # the mutant
    assert METRICS["feedback_margin"].corpus(down, [None] * 50) == pytest.approx(0)


def test_the_verdict_is_against_a_model_that_did_not_move() -> None:
    marks = [float(i % 3 == 0) for i in range(60)]
    still, moved = [(0.0, m) for m in marks], [(1.0 if m else -1.0, m) for m in marks]
    verdict = compare(Cases([None] * 60, still, moved), METRICS["feedback_accuracy"], Rules())
    assert (verdict.base, verdict.tuned, verdict.decision) == (0.5, 1.0, "better")
    same = compare(Cases([None] * 60, still, still), METRICS["feedback_accuracy"], Rules())
    assert (same.effect, same.decision != "better") == (0.0, True)
