"""A logistic regression on frozen states: what a model's states know of the labels before anything is tuned.

Kumar et al. 2022 (arXiv:2202.10054) call it a linear probe, and tune from it on (LP-FT).
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # sklearn's C: less is a stronger pull to 0
NUM_FOLDS = 3
MOST_STEPS = 300


def fit_linear(x: np.ndarray, y: np.ndarray, num_classes: int, *, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(weight [C, D], bias [C]) whose softmax is the probability of each class. `x` [n, D] states, `y` [n] numbers.

    States are scaled by their spread, and the strength is the best of a few by cross-validation on these rows alone. A
    class that no row has gets a bias by which it is never said; without `bias` (zeros are returned) it gets zeros.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second to import
    from sklearn.linear_model import LogisticRegression

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
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

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


def fit_each(x: np.ndarray, y: np.ndarray, *, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(weight [C, D], bias [C]) whose sigmoid is the probability that each label fits. `x` [n, D] states, `y` [n, C]
    whether it does.

    A logistic regression a label, with one strength for all, the best of STRENGTHS by cross-validation. A label that no
    row has, or every row, gets a bias by which it is never said, or always; without `bias` (zeros) it gets zeros.
    """
    middle = x.mean(0) if bias else np.zeros(x.shape[1])
    spread = np.maximum(x.std(0), 1e-6)
    scaled, is_open = (x - middle) / spread, y.any(0) & ~y.all(0)
    weight, start = np.zeros((y.shape[1], x.shape[1])), np.where(y.all(0), 30.0, -30.0)
    if is_open.any():
        found = sigmoids(scaled, y[:, is_open], joint_strength(scaled, y[:, is_open], bias=bias), bias=bias)
        weight[is_open] = found[0] / spread
        start[is_open] = found[1] - weight[is_open] @ middle
    return weight, start if bias else np.zeros(y.shape[1])


def joint_strength(x: np.ndarray, y: np.ndarray, *, bias: bool) -> float:
    """The one of STRENGTHS with the least cross-validated log loss over all labels; 1 with too few rows for folds."""
    if len(x) < 2 * NUM_FOLDS:
        return 1.0
    fold = np.random.default_rng(0).permutation(len(x)) % NUM_FOLDS

    def loss(c: float) -> float:
        total = 0.0
        for k in range(NUM_FOLDS):
            weight, start = sigmoids(x[fold != k], y[fold != k], c, bias=bias)
            sign = np.where(y[fold == k], 1, -1)
            total += float(np.logaddexp(0, -sign * (x[fold == k] @ weight.T + start)).sum())
        return total

    return min(STRENGTHS, key=loss)


def sigmoids(x: np.ndarray, y: np.ndarray, c: float, *, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(weight [C, D], bias [C]) of C logistic regressions at once: the least c * log loss + |weight|^2 / 2."""
    num, width, sign = y.shape[1], x.shape[1], np.where(y, 1, -1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(num, width + 1)
        weight, start = both[:, :-1], both[:, -1] * bias
        margin = sign * (x @ weight.T + start)
        d_logit = -c * sign * expit(-margin)
        gradient = np.concatenate([d_logit.T @ x + weight, d_logit.sum(0)[:, None] * bias], 1)
        return float(c * np.logaddexp(0, -margin).sum() + (weight**2).sum() / 2), gradient.ravel()

    zeros, options = np.zeros(num * (width + 1)), {"maxiter": MOST_STEPS}
    both = minimize(loss, zeros, jac=True, method="L-BFGS-B", options=options).x.reshape(num, width + 1)
    return both[:, :-1], both[:, -1] * bias
