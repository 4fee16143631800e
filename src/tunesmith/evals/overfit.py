"""How much of what was learned holds for training rows only, and how much of it is there word for word.

The loss of a row depends on the row far more than on the model, so a row is held against itself: what its loss lost
by tuning. The mean of that over training rows less that over dev rows is the train-dev gap; a difference that the two
sets had before tuning is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from tunesmith.evals import stats
from tunesmith.evals.slices import apart

MIN_UNITS = 8  # on each side
LEAST_KEPT = 0.5  # of the gain on training rows; where less of it is shown to reach dev rows, the verdict says so
MIN_REPLIES = 8  # to be begun and compared; with fewer the share that is completed says nothing


def by_unit(values: Sequence[float], groups: Sequence[str | None]) -> np.ndarray:
    """Means over the rows of each group; a row without a group is a unit of its own."""
    of: dict[object, list[float]] = {}
    for k, (value, group) in enumerate(zip(values, groups, strict=True)):
        of.setdefault(k if group is None else group, []).append(value)
    return np.array([np.mean(unit) for unit in of.values()])


def welch(one: np.ndarray, other: np.ndarray, alpha: float) -> tuple[float, tuple[float, float]]:
    """mean(one) - mean(other) and its interval (Welch 1947): the two spreads need not be equal."""
    difference = float(one.mean() - other.mean())
    if np.ptp(one) == 0 and np.ptp(other) == 0:
        return difference, (difference, difference)
    ends = ttest_ind(one, other, equal_var=False).confidence_interval(1 - alpha)
    return difference, (float(ends.low), float(ends.high))


def num_units(groups: Sequence[str | None]) -> int:
    """As `by_unit` counts them."""
    return len({g for g in groups if g is not None}) + sum(g is None for g in groups)


def gap(
    train: tuple[Sequence[float], Sequence[float]], dev: tuple[Sequence[float], Sequence[float]],
    groups: tuple[Sequence[str | None], Sequence[str | None]], alpha: float,
) -> dict[str, Any] | None:  # fmt: skip
    """`train` and `dev`: (before, after) tuning, nats per token of each row. None where there are too few rows.

    `gained`: by how much the loss of training rows fell, `gap`: by how much more than that of dev rows; nats per token,
    means over units.
    """
    fell = [by_unit(np.subtract(before, after).tolist(), g) for (before, after), g in zip((train, dev), groups)]
    if min(map(len, fell)) < MIN_UNITS:
        return None
    difference, interval = welch(fell[0], fell[1], alpha)
    return {
        "num_train": len(train[0]), "num_dev": len(dev[0]), "num_units": [len(f) for f in fell],
        "train_loss": [float(np.mean(rows)) for rows in train], "dev_loss": [float(np.mean(rows)) for rows in dev],
        "gained": float(fell[0].mean()), "gap": difference, "interval": interval,
        "unit": "nats per token, before less after tuning",
        "kept_frac": None if fell[0].mean() <= 0 else float(fell[1].mean() / fell[0].mean()),
    }  # fmt: skip


def completed(train: tuple[Sequence[bool], Sequence[bool]], dev: Sequence[bool], alpha: float) -> dict[str, Any] | None:
    """`train`: of each begun training reply, whether (base, tuned) completed it word for word; `dev`: tuned, of replies
    that it never saw. What anybody would write next is completed on dev too: `excess` is what only training explains,
    if the base did not know it before: `gain`.
    """
    if min(len(train[0]), len(dev)) < MIN_REPLIES:
        return None
    found = {}
    for name, done in (("base", train[0]), ("tuned", train[1]), ("dev", dev)):
        rows = np.array(done, dtype=float)
        share = float(rows.mean())
        centred = (rows - share) / len(rows)
        found[name] = share, stats.score_interval(share, centred, (0.0, 1.0), is_binary=True, alpha=alpha)
    excess, interval = apart(found["tuned"], found["dev"])
    gain, gain_interval = apart(found["tuned"], found["base"])
    return {
        "num_train": len(train[0]), "num_dev": len(dev),
        **{name: share for name, (share, _) in found.items()},
        **{f"{name}_interval": ends for name, (_, ends) in found.items()},
        "excess": excess, "interval": interval, "gain": gain, "gain_interval": gain_interval,
    }  # fmt: skip


def notes(found: dict[str, Any] | None, memorised: dict[str, Any] | None) -> list[str]:
    """What the verdict must say of it: most of the gain stays with the training rows, or these are recited."""
    said = []
    if found is not None:
        (train_before, train_after), (dev_before, dev_after) = found["train_loss"], found["dev_loss"]
        if found["gained"] > 0 and found["interval"][0] > (1 - LEAST_KEPT) * found["gained"]:
            said.append(
                f"over-fitted: the loss fell from {train_before:.2f} to {train_after:.2f} nats per token on training "
                f"rows and from {dev_before:.2f} to {dev_after:.2f} on dev rows; more than half of what was learned "
                "holds for the training rows only. Fewer epochs, a lower learning rate or more rows mend it."
            )
    if memorised is not None and memorised["interval"][0] > 0 and memorised["gain_interval"][0] > 0:
        said.append(
            f"recites training data: begun replies of training are completed word for word in {memorised['tuned']:.0%} "
            f"of {memorised['num_train']}, those of dev in {memorised['dev']:.0%} (the base: {memorised['base']:.0%} "
            "of training). Who holds the model can read training replies out of it."
        )
    return said
