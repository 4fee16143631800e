"""The probe is sklearn's own logistic regression, folded into one linear layer."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tunesmith.evals.linear_probe import STRENGTHS, fit_each, fit_linear, joint_strength, strength


def rows(num_classes: int, num: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(num) % num_classes
    x = rng.normal(size=(num, 6)) * np.array([1, 5, 0.1, 1, 1, 1]) + 3
    x[:, 0] += 1.5 * y
    return x, y


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_probe_is_a_logistic_regression_on_scaled_states(num_classes: int, bias: bool) -> None:
    x, y = rows(num_classes)
    weight, start = fit_linear(x, y, num_classes, bias=bias)
    scaled = (x - (x.mean(0) if bias else 0)) / x.std(0)
    c = strength(scaled, y, bias=bias)
    plain = LogisticRegression(C=c, max_iter=300, fit_intercept=bias).fit(scaled, y)
    logits = x @ weight.T + start
    found = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
    np.testing.assert_allclose(found, plain.predict_proba(scaled), rtol=1e-6, atol=1e-9)
    assert c in STRENGTHS


def test_a_class_without_a_row_is_never_said() -> None:
    x, y = rows(2)
    weight, start = fit_linear(x, 2 * y, 3, bias=True)  # classes 0 and 2
    logits = x @ weight.T + start
    assert set(logits.argmax(1)) == {0, 2}
    assert np.exp(logits[:, 1] - np.logaddexp.reduce(logits, 1)).max() < 1e-6


def test_one_class_alone_is_always_said() -> None:
    x, _ = rows(2)
    weight, start = fit_linear(x, np.ones(len(x), int), 3, bias=True)
    assert set((x @ weight.T + start).argmax(1)) == {1}


def test_strength_needs_rows_for_folds() -> None:
    x, y = rows(2, 4)
    assert strength(x, y, bias=True) == 1.0


@pytest.mark.parametrize("bias", [True, False])
def test_labels_that_are_questions_each_have_a_regression_of_their_own(bias: bool) -> None:
    x, classes = rows(3)
    y = np.stack([classes == 1, classes != 2, classes > 5], 1)  # the last fits no row
    weight, start = fit_each(x, y, bias=bias)
    scaled = (x - (x.mean(0) if bias else 0)) / x.std(0)
    c = joint_strength(scaled, y[:, :2], bias=bias)
    for k in range(2):
        plain = LogisticRegression(C=c, max_iter=300, fit_intercept=bias).fit(scaled, y[:, k])
        found = 1 / (1 + np.exp(-(x @ weight[k] + start[k])))
        np.testing.assert_allclose(found, plain.predict_proba(scaled)[:, 1], rtol=1e-3, atol=1e-4)
    assert (x @ weight[2] + start[2]).max() == (-30.0 if bias else 0.0)
    assert c in STRENGTHS
