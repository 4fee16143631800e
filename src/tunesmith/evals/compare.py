"""Base and tuned on the same cases: one test, the interval made by inverting it, one decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.evals import mcnemar, permutation, stats
from tunesmith.evals.metrics import Metric
from tunesmith.evals.sparse import FEW
from tunesmith.types import Claim, Verdict

MCNEMAR = "mid-p McNemar"
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "no relevant difference", "too few cases"


@dataclass(frozen=True, slots=True)
class Cases:
    """Held-out cases with what both models answered; four lists of equal length."""

    references: Sequence[object]
    base: Sequence[object]
    tuned: Sequence[object]
    groups: Sequence[str | None] | None = None  # cases of a group are no independent evidence; None = a unit of its own
    simple: Mapping[str, Sequence[object]] = field(
        default_factory=dict
    )  # what needs no tuning answers to the same cases


@dataclass(frozen=True, slots=True)
class Rules:
    """How a comparison is decided."""

    alpha: float = 0.05  # two-sided
    smallest_that_matters: float | None = (
        None  # in the metric's unit; None: the metric's own `matters`, shown in the verdict
    )
    power: float = 0.8
    smallest_detectable: float | None = None  # as announced before training; None: from the spread of these cases
    num_flips: int = 9_999
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """`effect` and `interval` are the gain in the metric's unit: tuned minus base, or base minus tuned where less is
    better. Above 0 is better, whatever the metric."""

    base: float
    tuned: float
    effect: float
    interval: tuple[float, float]
    base_interval: tuple[float, float]
    tuned_interval: tuple[float, float]
    p: float
    test: str
    num_units: int
    least_p: float  # that this many units can give, whatever the outputs are
    smallest_detectable: float
    num_differing: int  # units on which the two come out differently


def units_of(groups: Sequence[str | None] | None) -> np.ndarray | None:
    """[n] number of each case's unit, or None where every case is its own."""
    if groups is None:
        return None
    numbers: dict[object, int] = {}
    # a case without a group gets a key that no group can have
    unit_n = np.array([numbers.setdefault(k if g is None else g, len(numbers)) for k, g in enumerate(groups)])
    return None if len(numbers) == len(groups) else unit_n


def checked_stats(cases: Cases, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Per-case statistics [n, K] of base and tuned, finite and as many as there are references."""
    lengths = {len(cases.references), len(cases.base), len(cases.tuned)}
    if cases.groups is not None:
        lengths.add(len(cases.groups))
    if lengths == {0}:
        raise DataError("there is no held-out case to compare on; give more rows, or a larger test share.")
    if len(lengths) > 1:
        raise DataError(
            f"references, outputs and groups differ in number ({sorted(lengths)}); one of each per case is wanted."
        )
    both = metric.stats(cases.base, cases.references), metric.stats(cases.tuned, cases.references)
    for who, rows in zip(("base", "tuned"), both):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise DataError(
                f"{metric.name} of the {who} output of case {bad[0]} is {rows[bad[0]].tolist()}; wanted is a "
                "finite number; leaving such cases out would bias the comparison. Mend the metric or the reference."
            )
    return both


def measure(cases: Cases, metric: Metric, rules: Rules) -> Effect:
    """Test and interval by the kind of the metric; groups, where given, are what is swapped."""
    base, tuned = checked_stats(cases, metric)
    unit_n = units_of(cases.groups)
    if metric.kind == "binary":
        assert np.isin([base[:, 0], tuned[:, 0]], (0, 1)).all(), metric.name
    if metric.kind == "binary" and unit_n is None:
        found = paired_rights(base[:, 0], tuned[:, 0], rules)
    else:
        found = swapped(base, tuned, metric, unit_n, rules)
    alone = [score_of(rows, metric, unit_n, rules.alpha) for rows in (base, tuned)]
    (base_score, base_interval), (tuned_score, tuned_interval) = alone
    return Effect(base_score, tuned_score, base_interval=base_interval, tuned_interval=tuned_interval, **found)


def score_of(
    rows: np.ndarray, metric: Metric, unit_n: np.ndarray | None, alpha: float
) -> tuple[float, tuple[float, float]]:
    """One model alone: its score and the interval of that, from per-case statistics [n, K]."""
    own = permutation.by_unit(permutation.contributions(rows, metric.value)[:, None], unit_n)[:, 0]
    is_plain = metric.kind == "binary" and unit_n is None
    score = float(metric.value(rows.sum(axis=0)))
    return score, stats.score_interval(score, own, (metric.low, metric.high), is_binary=is_plain, alpha=alpha)


def paired_rights(base: np.ndarray, tuned: np.ndarray, rules: Rules) -> dict[str, Any]:
    """Mid-p McNemar of right/wrong cases [n]."""
    num_cases = len(base)
    won, lost = int((tuned > base).sum()), int((tuned < base).sum())

    def p_at(shift: float) -> float:
        return float(mcnemar.p_at(won, lost, num_cases, shift))

    effect = (won - lost) / num_cases
    return {
        "effect": effect,
        "interval": stats.invert(p_at, effect, 1.0, rules.alpha),
        "p": p_at(0.0),
        "test": MCNEMAR,
        "num_units": num_cases,
        "least_p": 2.0**-num_cases,
        "smallest_detectable": stats.detectable_binary(num_cases, (won + lost) / num_cases, rules.alpha, rules.power),
        "num_differing": won + lost,
    }


def swapped(
    base: np.ndarray, tuned: np.ndarray, metric: Metric, unit_n: np.ndarray | None, rules: Rules
) -> dict[str, Any]:
    """Permutation test of per-case statistics [n, K]."""
    flips = permutation.flip(base, tuned, metric.gain, metric.span, unit_n, rules.num_flips, rules.seed)
    span, num_units = metric.span, flips.contribution_G.shape[-1]

    def p_at(shift: float) -> float:
        return float(permutation.p_at(flips, shift))

    name = "swapped outputs, recomputed" if metric.kind == "corpus" else "sign flips of the differences"
    number = (
        f"all {2 ** (num_units - 1)} splits" if flips.is_exact else f"{rules.num_flips} drawn with seed {rules.seed}"
    )
    groups = "" if unit_n is None else f", {num_units} groups as units"
    if permutation.is_flat(flips):  # no spread was seen: an effect shows only as units unlike these
        detectable = span * stats.detectable_binary(num_units, 0.0, rules.alpha, rules.power)
    else:
        error = min(stats.standard_error(flips.contribution_G), span)
        detectable = stats.detectable_mean(error, rules.alpha, rules.power)
    effect = float(flips.effect)
    return {
        "effect": effect,
        "interval": stats.invert(p_at, effect, span, rules.alpha),
        "p": p_at(0.0),
        "test": f"permutation: {name}, {number}{groups}",
        "num_units": num_units,
        "least_p": 2.0 ** (1 - num_units) if flips.is_exact else 1 / (1 + rules.num_flips),
        "smallest_detectable": min(detectable, span),
        "num_differing": int(flips.num_differing),
    }


def decide(interval: tuple[float, float], smallest_that_matters: float) -> str:
    """The one rule, from the one interval."""
    low, high = interval
    assert low <= high, interval
    if low > 0:
        return BETTER
    if high < 0:
        return WORSE
    return SAME if -smallest_that_matters <= low and high <= smallest_that_matters else UNKNOWN


def signed(value: float, metric: Metric) -> str:
    return f"{value:+.2f}" if metric.high > 1 else f"{value:+.3f}"


def plain(value: float, metric: Metric) -> str:
    return f"{value:.2f}" if metric.high > 1 else f"{value:.3f}"


def sentence_of(claim: Claim, metric: Metric) -> str:
    """One sentence that a reader can repeat."""
    start = {
        BETTER: f"The tuned model is better than the base on {metric.name}",
        WORSE: f"The tuned model is worse than the base on {metric.name}",
        SAME: f"The tuned model and the base do not differ by as much as {plain(claim.smallest_that_matters, metric)} "
        f"on {metric.name}",
        UNKNOWN: f"These cases are too few to tell the tuned model from the base on {metric.name}",
    }[claim.decision]
    low, high = (signed(end, metric) for end in claim.interval)
    difference = "a gain of" if metric.less_is_better else "a difference of"
    direction = ", less is better" if metric.less_is_better else ""
    return (
        f"{start}: {plain(claim.base, metric)} → {plain(claim.tuned, metric)}{direction}, {difference} "
        f"{signed(claim.effect, metric)} (interval {low} to {high}) on {claim.num_cases} held-out cases."
    )


def notes_of(claim: Claim, found: Effect, metric: Metric, rules: Rules, about: str) -> list[str]:
    """`about`: whom a note is about where there are several claims."""
    notes, matters = [], claim.smallest_that_matters
    if claim.decision in (BETTER, WORSE) and abs(found.effect) < matters:
        notes.append(
            f"{about}the difference {signed(found.effect, metric)} is shown, but it is smaller than what was said to "
            f"matter ({plain(matters, metric)})."
        )
    if claim.decision == UNKNOWN:
        notes.append(
            f"{about}with the spread seen here a true difference of {plain(found.smallest_detectable, metric)} is "
            f"found in {rules.power:.0%} of such comparisons; a smaller one needs more held-out cases."
        )
    if found.num_units < claim.num_cases:
        notes.append(
            f"the {claim.num_cases} cases stand in {found.num_units} groups, which are what counts as evidence."
        )
    if 0 < found.num_differing < FEW and found.test != MCNEMAR:
        units = "cases" if found.num_units == claim.num_cases else "groups"
        notes.append(
            f"{about}only {found.num_differing} of {found.num_units} {units} came out differently: an interval from "
            "so few is only about as sure as it says."
        )
    if found.least_p >= claim.level:
        notes.append(
            f"{about}{found.num_units} independent units are too few to show any difference at level {claim.level:.3g}."
        )
    return notes


def against_baselines(tested: Sequence[tuple[Cases, Metric]], rules: Rules) -> tuple[dict[str, float], list[str]]:
    """Each baseline's score on the first metric, and a sentence for each baseline and metric on which the tuned model
    is not shown to beat it: "it beats all of these on all of them" is as many claims, so Holm decides."""
    found = [
        (name, metric, measure(Cases(cases.references, given, cases.tuned, cases.groups), metric, rules))
        for cases, metric in tested
        for name, given in cases.simple.items()
    ]
    adjusted = stats.holm([against.p for *_, against in found])
    notes = []
    for (name, metric, against), p in zip(found, adjusted):
        about = f"{metric.name}: " if len(tested) > 1 else ""
        scores = f"{plain(against.base, metric)} against {plain(against.tuned, metric)}"
        shown = f"{about}{name} scores {scores} of the tuned model"
        if against.effect <= 0:
            notes.append(
                f"{shown}: this simple baseline does as well or better, without any tuning of a language model."
            )
        elif p >= rules.alpha:
            notes.append(f"{shown}: it may do as well, these cases do not show that the tuned model beats it.")
    return {name: against.base for name, metric, against in found if metric is tested[0][1]}, notes


def compare(
    cases: Cases,
    metric: Metric,
    rules: Rules | None = None,
    *,
    task: str = "",
    notes: Sequence[str] = (),
    further: Sequence[tuple[Cases, Metric]] = (),
) -> Verdict:
    """The verdict on the primary metric, or on several (`further`), with Holm."""
    rules = rules or Rules()
    check_rules(rules)
    tested = [(cases, metric), *further]
    effects = at_holm_levels(tested, rules)
    claims, sentences, said = [], [], list(notes)
    for (there, one), (found, level, p_holm) in zip(tested, effects):
        own_rules = rules if one is metric else replace(rules, smallest_that_matters=None, smallest_detectable=None)
        claim = claimed(found, one, own_rules, len(there.references), (level, p_holm))
        sentences.append(sentence_of(claim, one))
        said += notes_of(claim, found, one, rules, f"{one.name}: " if further else "")
        claims.append(claim)
    scores, doubts = against_baselines(tested, rules)
    first, found = claims[0], effects[0][0]
    decision = together([c.decision for c in claims])
    return Verdict(
        claim=" ".join([*([summary(decision, len(claims))] if further else []), *sentences]),
        task=task,
        metric=metric.name,
        base=found.base,
        tuned=found.tuned,
        effect=found.effect,
        interval=found.interval,
        num_cases=first.num_cases,
        test=found.test,
        p=found.p,
        alpha=rules.alpha,
        smallest_detectable=first.smallest_detectable,
        smallest_that_matters=first.smallest_that_matters,
        decision=decision,
        baselines=scores,
        base_interval=found.base_interval,
        tuned_interval=found.tuned_interval,
        notes=tuple(dict.fromkeys([*said, *doubts])),
        less_is_better=metric.less_is_better,
        claims=tuple(claims),
    )


def at_holm_levels(tested: Sequence[tuple[Cases, Metric]], rules: Rules) -> list[tuple[Effect, float, float]]:
    """Of each claim its effect, with the interval at the level at which Holm's step-down tests it, this level, and the
    adjusted p."""
    plainly = [measure(cases, metric, rules) for cases, metric in tested]
    p_values = [found.p for found in plainly]
    rows = []
    for (cases, metric), found, level, p_holm in zip(
        tested, plainly, stats.holm_levels(p_values, rules.alpha), stats.holm(p_values)
    ):
        if level < rules.alpha:
            strict = measure(cases, metric, replace(rules, alpha=level))
            found = replace(found, interval=strict.interval, smallest_detectable=strict.smallest_detectable)
        rows.append((found, level, p_holm))
    return rows


def claimed(found: Effect, metric: Metric, rules: Rules, num_cases: int, tested: tuple[float, float]) -> Claim:
    """`tested`: level and adjusted p."""
    matters = metric.matters if rules.smallest_that_matters is None else rules.smallest_that_matters
    announced = rules.smallest_detectable
    level, p_holm = tested
    return Claim(
        metric=metric.name,
        base=found.base,
        tuned=found.tuned,
        effect=found.effect,
        interval=found.interval,
        num_cases=num_cases,
        test=found.test,
        p=found.p,
        p_holm=p_holm,
        level=level,
        smallest_detectable=found.smallest_detectable if announced is None else announced,
        smallest_that_matters=matters,
        decision=decide(found.interval, matters),
        less_is_better=metric.less_is_better,
    )


def together(decisions: Sequence[str]) -> str:
    """Of several claims: a loss that is shown outweighs any gain; for "no relevant difference" all must be level."""
    for found in (WORSE, BETTER, UNKNOWN):
        if found in decisions:
            return found
    return SAME


def summary(decision: str, num: int) -> str:
    return {
        BETTER: f"Better on at least one of {num} primary metrics, worse on none.",
        WORSE: f"Worse on at least one of {num} primary metrics.",
        SAME: f"No relevant difference on any of {num} primary metrics.",
        UNKNOWN: f"Neither better nor worse is shown on any of {num} primary metrics.",
    }[decision]


def check_rules(rules: Rules) -> None:
    matters = rules.smallest_that_matters
    if not 0 < rules.alpha < 1:
        raise DataError(f"alpha is {rules.alpha}; a level between 0 and 1 is wanted (0.05 is usual).")
    if matters is not None and not 0 <= matters < float("inf"):
        raise DataError(f"smallest_that_matters is {matters}; a size of 0 or more in the metric's unit is wanted.")


def secondary(cases: Cases, metrics: Sequence[Metric], rules: Rules | None = None) -> dict[str, dict[str, Any]]:
    """The other metrics, each with its own interval and no decision: looking at many, some will differ by chance."""
    rows: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        found = measure(cases, metric, rules or Rules())
        rows[metric.name] = {
            "base": found.base,
            "tuned": found.tuned,
            "effect": found.effect,
            "interval": found.interval,
            "base_interval": found.base_interval,
            "tuned_interval": found.tuned_interval,
            "p": found.p,
            "test": found.test,
            "unit": metric.unit,
            "less_is_better": metric.less_is_better,
            "role": "secondary",
        }
    return rows
