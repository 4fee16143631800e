"""One comparison cut into parts: the effect in each slice of the cases, the worst slice, and gaps between groups.

Many slices are looked at, and one of many looks bad by chance. So every interval here is made at level alpha divided by
the number of slices (Bonferroni): all of them together hold with 1 - alpha, whichever is looked at, the worst too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tunesmith.evals import checks
from tunesmith.evals.compare import Cases, Effect, Rules, measure
from tunesmith.evals.metrics import Metric

MIN_CASES = 20  # of a slice; an interval from fewer is too wide to say anything at a corrected level
LEAST_WORDS = 8  # of a text whose language is told
LANGUAGES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French"}
OWN_UNITS = ("group",)  # dimensions whose slices are units themselves: inside of one, its cases are what counts
Names = Sequence[str | None]  # of the slice that each case stands in; None: in none


@dataclass(frozen=True, slots=True)
class Slice:
    """`effect` is the gain, above 0 is better, with its simultaneous interval."""

    dimension: str
    name: str
    num_cases: int
    base: float
    tuned: float
    effect: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gap:
    """Score of the cases of one name less that of all other cases of the dimension, before and after tuning. `change`
    is how much more the name gained than the others."""

    dimension: str
    name: str
    num_cases: int
    num_others: int
    base: float
    base_interval: tuple[float, float]
    tuned: float
    tuned_interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]


def terciles(lengths: Sequence[int]) -> list[str | None]:
    """Short, middle or long, with the numbers of characters that the cuts stand for; equal lengths stay together."""
    low, high = (int(np.quantile(lengths, share, method="lower")) for share in (1 / 3, 2 / 3))
    between = f"{low + 1} to {high}" if high > low + 1 else f"{high}"
    short, middle, long = f"up to {low} characters", f"{between} characters", f"over {high} characters"
    return [short if n <= low else middle if n <= high else long for n in lengths]


def languages(texts: Sequence[str]) -> list[str | None]:
    """Of each text, told by its short words; of what is not written in Latin letters, its script. None where fewer
    than two languages have enough texts: one slip of this rough ear must not cut the cases."""
    named = [language(text) for text in texts]
    large = {name for name, num in Counter(named).items() if name is not None and num >= MIN_CASES}
    return [name if name in large and len(large) > 1 else None for name in named]


def language(text: str) -> str | None:
    letters = checks.script(text)
    if letters not in ("", "LATIN"):
        return f"in {letters.capitalize().replace('Cjk', 'Chinese or Japanese')} letters"
    return LANGUAGES.get(checks.language(text)) if len(checks.words(text)) >= LEAST_WORDS else None


def pooled(names: Names, least: int = MIN_CASES) -> tuple[list[str | None], list[dict[str, Any]]]:
    """The names with small ones put together, and what is too small even then, with how many cases each."""
    counts = Counter(name for name in names if name is not None)
    small = {name for name, num in counts.items() if num < least}
    if sum(counts[name] for name in small) >= least and len(small) > 1:
        others = f"{len(small)} small ones together"
        return [others if name in small else name for name in names], []
    few = [{"name": name, "num_cases": counts[name]} for name in sorted(small)]
    return [None if name in small else name for name in names], few


def at(cases: Cases, chosen: Sequence[int], *, is_own_unit: bool = False) -> Cases:
    """The comparison on the chosen cases alone."""
    groups = None if cases.groups is None or is_own_unit else [cases.groups[k] for k in chosen]
    references, base, tuned = ([rows[k] for k in chosen] for rows in (cases.references, cases.base, cases.tuned))
    return Cases(references, base, tuned, groups)


def places(names: Names) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        if name is not None:
            found.setdefault(name, []).append(k)
    return dict(sorted(found.items()))


def of_slices(
    cases: Cases, metric: Metric, dimensions: Mapping[str, Names], rules: Rules, gaps_of: Sequence[str] = ()
) -> dict[str, Any]:
    """Every slice with its effect, the worst one, and for the dimensions `gaps_of` the gap of each name to the rest.

    A dimension with one slice cuts nothing and is left out. Keys: alpha, num_slices, rows, too_few, worst, gaps.
    """
    kept: dict[str, dict[str, list[int]]] = {}
    too_few = []
    for dimension, names in dimensions.items():
        large, few = pooled(names)
        found = places(large)
        too_few += [{"dimension": dimension, **row} for row in few]
        if len(found) + len(few) > 1 and found:
            kept[dimension] = found
    num = sum(map(len, kept.values()))
    corrected = replace(rules, alpha=rules.alpha / max(1, num))
    rows = []
    for dimension, found in kept.items():
        for name, chosen in found.items():
            one = measure(at(cases, chosen, is_own_unit=dimension in OWN_UNITS), metric, corrected)
            rows.append(Slice(dimension, name, len(chosen), one.base, one.tuned, one.effect, one.interval))
    worst = min(rows, key=lambda row: (row.effect, row.dimension, row.name), default=None)
    return {
        "alpha": rules.alpha,
        "num_slices": num,
        "rows": [asdict(row) for row in rows],
        "too_few": too_few,
        "worst": None if worst is None else asdict(worst),
        "gaps": [asdict(g) for g in gaps(cases, metric, {d: kept[d] for d in gaps_of if d in kept}, rules)],
    }


def gaps(cases: Cases, metric: Metric, kept: Mapping[str, Mapping[str, Sequence[int]]], rules: Rules) -> list[Gap]:
    """Of each dimension with two names or more; of two names the second is the first turned round, and left out."""
    pairs = []
    for dimension, found in kept.items():
        names = list(found)[:1] if len(found) == 2 else list(found) if len(found) > 2 else []
        pairs += [(dimension, name, found[name], rest(found, name)) for name in names]
    corrected = replace(rules, alpha=rules.alpha / max(1, len(pairs)))
    rows = []
    for dimension, name, chosen, others in pairs:
        one, other = measure(at(cases, chosen), metric, corrected), measure(at(cases, others), metric, corrected)
        rows.append(gap(dimension, name, (len(chosen), len(others)), one, other))
    return rows


def rest(found: Mapping[str, Sequence[int]], name: str) -> list[int]:
    return sorted(k for other, chosen in found.items() if other != name for k in chosen)


def gap(dimension: str, name: str, nums: tuple[int, int], one: Effect, other: Effect) -> Gap:
    base, base_interval = apart((one.base, one.base_interval), (other.base, other.base_interval))
    tuned, tuned_interval = apart((one.tuned, one.tuned_interval), (other.tuned, other.tuned_interval))
    change, change_interval = apart((one.effect, one.interval), (other.effect, other.interval))
    return Gap(dimension, name, *nums, base, base_interval, tuned, tuned_interval, change, change_interval)


Estimate = tuple[float, tuple[float, float]]  # a value and its interval


def apart(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two independent values, and its interval from theirs by square-and-add.

    Newcombe 1998, method 10, for shares with Wilson's intervals; Zou and Donner 2008 for any two intervals (MOVER).
    Unlike the usual difference of means it does not shrink to nothing where all cases of a side are right.
    """
    (a, (low_a, high_a)), (b, (low_b, high_b)) = one, other
    down = ((a - low_a) ** 2 + (high_b - b) ** 2) ** 0.5
    up = ((high_a - a) ** 2 + (b - low_b) ** 2) ** 0.5
    return a - b, (a - b - down, a - b + up)


def notes(found: Mapping[str, Any], decision: str) -> list[str]:
    """What a reader of the verdict must know of it, in sentences; none where no slice lost and no gap grew."""
    said = []
    shown = [r for r in found["rows"] if r["interval"][1] < 0]
    for row in sorted(shown, key=lambda r: r["effect"]):
        said.append(
            f"the tuned model is worse where {where(row)}: {row['base']:.3g} → {row['tuned']:.3g} on "
            f"{row['num_cases']} cases (interval of the effect {interval(row['interval'])}, which holds for all "
            f"{found['num_slices']} slices at once)."
        )
    worst = found["worst"]
    if worst and not shown and worst["effect"] < 0 and decision == "better":
        said.append(
            f"the worst slice is where {where(worst)}: {worst['base']:.3g} → {worst['tuned']:.3g} on "
            f"{worst['num_cases']} cases; one of {found['num_slices']} slices can look so by chance (interval of the "
            f"effect {interval(worst['interval'])})."
        )
    apart_in = [r for r in found["gaps"] if r["tuned_interval"][0] > 0 or r["tuned_interval"][1] < 0]
    for dimension in dict.fromkeys(r["dimension"] for r in apart_in):
        row = max((r for r in apart_in if r["dimension"] == dimension), key=lambda r: abs(r["tuned"]))
        said.append(
            f"the tuned model's score differs by {dimension}: {row['name']} against the others {row['tuned']:+.3g} "
            f"(interval {interval(row['tuned_interval'])}); of the base {row['base']:+.3g}. Tuning changed that by "
            f"{row['change']:+.3g} (interval {interval(row['change_interval'])})."
        )
    return said


def where(row: Mapping[str, Any]) -> str:
    return f"the {row['dimension']} is {row['name']}"


def interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:+.2g} to {ends[1]:+.2g}"
