"""Whether changed prompts hurt the tuned model more than the base: a paired difference of differences.

    (tuned on changed prompts - tuned on prompts as they are) - (the same of the base)

A tuned model has more to lose, so its own loss alone would blame it for being better. Where the base is at the floor it
cannot lose, and the difference says nothing: there only the tuned model's own loss counts, and this is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.evals import permutation, stats
from tunesmith.evals.compare import Cases, Rules, units_of
from tunesmith.evals.metrics import Metric, mean_of

FLOOR_FRAC = 0.05  # of a metric's range: texts that score lower have nothing that could be lost


@dataclass(frozen=True, slots=True)
class Sides:
    """What base and tuned gave to the same cases, asked as they are and asked otherwise."""

    references: Sequence[object]
    base: Sequence[object]
    tuned: Sequence[object]
    base_changed: Sequence[object]
    tuned_changed: Sequence[object]
    groups: Sequence[str | None] | None = None


def parts(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """[n] what each case brings to the gain, such that their mean is the metric (turned where less is better): its
    score where the metric is a mean of those, else its part to first order. `rows` [n, S]: the metric's statistics."""
    if metric.kind != "corpus":
        return -rows[:, 0] if metric.less_is_better else rows[:, 0]
    return float(metric.gain(rows.sum(axis=0))) + len(rows) * permutation.contributions(rows, metric.gain)


def mean_shift(change_n: np.ndarray, span: float, unit_n: np.ndarray | None, rules: Rules) -> dict[str, Any]:
    """Mean of paired differences [n], with the interval that the sign-flip test gives."""
    ones = np.ones(len(change_n))
    base, tuned = np.stack([0 * change_n, ones], axis=-1), np.stack([change_n, ones], axis=-1)
    flips = permutation.flip(base, tuned, mean_of, span, unit_n, rules.num_flips, rules.seed)

    def p_at(shift: float) -> float:
        return float(permutation.p_at(flips, shift))

    effect = float(flips.effect)
    return {"effect": effect, "interval": stats.invert(p_at, effect, span, rules.alpha), "p": p_at(0.0)}


def difference(sides: Sides, metric: Metric, rules: Rules) -> dict[str, Any]:
    """One change; `rules.alpha`: already divided by the number of changes.

    Keys: scores of both on both kinds of prompts, `tuned_loss`, `base_loss` and `difference` with intervals (below 0:
    the change hurts, hurts tuned more).
    """
    given = (sides.base, sides.tuned, sides.base_changed, sides.tuned_changed)
    rows = [metric.stats(g, sides.references) for g in given]
    base, tuned, base_changed, tuned_changed = (parts(r, metric) for r in rows)
    unit_n = units_of(sides.groups)
    lost_base, lost_tuned = base_changed - base, tuned_changed - tuned
    scores = [float(metric.value(r.sum(axis=0))) for r in rows]
    return {
        "num_cases": len(sides.references),
        **dict(zip(("base", "tuned", "base_changed", "tuned_changed"), scores)),
        "base_loss": mean_shift(lost_base, metric.span, unit_n, rules),
        "tuned_loss": mean_shift(lost_tuned, metric.span, unit_n, rules),
        "difference": mean_shift(lost_tuned - lost_base, 2 * metric.span, unit_n, rules),
    }


def is_floor(cases: Cases, metric: Metric, guess: float | None, alpha: float) -> bool:
    """Whether the base is not shown to do better than guessing (`guess`: what that scores, for labels), or scores next
    to nothing (texts). To be asked of all held-out cases: of a few, little is shown."""
    base, unit_n = parts(metric.stats(cases.base, cases.references), metric), units_of(cases.groups)
    score = float(base.mean())
    worst = -metric.high if metric.less_is_better else metric.low
    if guess is None:
        return score - worst < FLOOR_FRAC * metric.span
    own = permutation.by_unit(((base - score) / len(base))[:, None], unit_n)[:, 0]
    is_plain = metric.kind == "binary" and unit_n is None
    low, _ = stats.score_interval(score, own, (metric.low, metric.high), is_binary=is_plain, alpha=alpha)
    return low <= guess


def of_changes(
    by_title: Mapping[str, Sides], metric: Metric, rules: Rules, *, is_floor: bool = False
) -> list[dict[str, Any]]:
    """A row for each change, intervals simultaneous over them."""
    corrected = replace(rules, alpha=rules.alpha / max(1, len(by_title)))
    rows = {title: difference(sides, metric, corrected) for title, sides in by_title.items()}
    return [{"change": title, **row, "is_floor": is_floor} for title, row in rows.items()]


def notes(rows: Sequence[Mapping[str, Any]], matters: float) -> list[str]:
    """What the verdict must say: changes that hurt the tuned model more than the base, or at all where the base is at
    the floor."""
    said = []
    for row in rows:
        more, own = row["difference"], row["tuned_loss"]
        shown = f"{row['tuned']:.3g} → {row['tuned_changed']:.3g} on {row['num_cases']} cases"
        low, high = (own if row["is_floor"] else more)["interval"]
        ends = f"{low:+.2g} to {high:+.2g}, for all {len(rows)} changes at once"
        if row["is_floor"] and high < -matters:
            said.append(
                f"the tuned model loses by a change of the prompt ({row['change']}): {shown} (interval {ends}). The "
                "base is at the floor and cannot lose."
            )
        elif not row["is_floor"] and high < 0:
            said.append(
                f"the tuned model is more brittle than the base ({row['change']}): {shown}, the base {row['base']:.3g} "
                f"→ {row['base_changed']:.3g} (interval of the difference {ends})."
            )
    return said
