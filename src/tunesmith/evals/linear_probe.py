"""A logistic regression on frozen states: what a model's states know of the labels before anything is tuned.

Kumar et al. 2022 (arXiv:2202.10054) call it a linear probe, and tune from it on (LP-FT).
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # sklearn's C: less is a stronger pull to 0
NUM_FOLDS = 3
MOST_STEPS = 300


def fit_linear(x: np.ndarray, y: np.ndarray, num_classes: int, *, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(weight [C, D], bias [C]) whose softmax is the probability of each class. `x` [n, D] states, `y` [n] numbers.

    States are scaled by their spread, and the strength is the best of a few by cross-validation on these rows alone. A
    class that no row has gets a bias by which it is never said; without `bias` (zeros are returned) it gets zeros.
    """
    middle = x.mean(0) if bias else np.zeros(x.shape[1])
    spread = np.maximum(x.std(0), 1e-6)
    scaled = (x - middle) / spread
    weight, start = np.zeros((num_classes, x.shape[1])), np.full(num_classes, -30.0 if bias else 0.0)
    there = np.unique(y)
    if len(there) == 1:
        start[there] = 0.0
        return weight, start
    model = LogisticRegression(C=strength(scaled, y, bias=bias), max_iter=MOST_STEPS, fit_intercept=bias)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe that stopped early is a probe
        model.fit(scaled, y)
    coef, intercept = model.coef_, np.broadcast_to(model.intercept_, len(model.coef_))
    if len(there) == 2:  # sklearn keeps one row for two classes
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weight[there] = coef / spread
    start[there] = intercept - weight[there] @ middle
    return weight, start if bias else np.zeros(num_classes)


def strength(x: np.ndarray, y: np.ndarray, *, bias: bool) -> float:
    """The one of STRENGTHS with the least cross-validated log loss; 1 where a class has too few rows for folds."""
    if np.unique(y, return_counts=True)[1].min() < NUM_FOLDS:
        return 1.0
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        losses = [
            -cross_val_score(
                LogisticRegression(C=c, max_iter=MOST_STEPS, fit_intercept=bias), x, y, cv=folds, scoring="neg_log_loss"
            ).mean()
            for c in STRENGTHS
        ]
    return STRENGTHS[int(np.argmin(losses))]
