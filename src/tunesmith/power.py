"""What the held-out cases can show, and how many would show the smallest difference that matters."""

from __future__ import annotations

import math

from tunesmith.build import Material
from tunesmith.evals.metrics import Metric
from tunesmith.evals.stats import cases_for_binary, cases_for_mean, detectable_binary, detectable_mean
from tunesmith.recipe import Recipe
from tunesmith.sources import files_of

ASSUMED_DISCORDANCE = 0.3  # of right/wrong cases that change; said beside the figure
ASSUMED_SPREAD = 0.25  # standard deviation of a case's change, of the metric's range
MOST_HELD_OUT = 0.5  # of the rows; where more would be wanted, rows are missing
DEV_OF_TEST = 0.25  # dev cases a test case: choices are made on differences twice as large


def shown(recipe: Recipe, made: Material, metric: Metric) -> tuple[str, str]:
    effect, why = detectable_effect(recipe, made, metric)
    return f"{effect:.3f}", why


def detectable_effect(recipe: Recipe, made: Material, metric: Metric) -> tuple[float, str]:
    """The effect that 4 of 5 such comparisons would find, under an assumption that is said. Several metrics: at the
    first, strictest level of Holm."""
    alpha, (num, unit) = level(recipe, made), units(made)
    if metric.kind == "binary":
        effect = detectable_binary(num, ASSUMED_DISCORDANCE, alpha)
        return effect, f"in the metric's unit, with 80% power, if {ASSUMED_DISCORDANCE:.0%} of {num} {unit} change"
    effect = detectable_mean(spread(metric) / num**0.5, alpha)
    return effect, f"in the metric's unit, with 80% power, if changes of {num} {unit} spread by {spread(metric):g}"


def wanted_row(recipe: Recipe, made: Material) -> tuple[str, int, str]:
    """For the plan: how many cases would find the smallest difference that matters, and how to have them."""
    said, metric, alpha = recipe.task.smallest_that_matters, made.metric, level(recipe, made)
    matters, (num, unit) = metric.matters if said is None else said, units(made)
    if metric.kind == "binary":
        wanted = cases_for_binary(matters, ASSUMED_DISCORDANCE, alpha)
    else:
        wanted = cases_for_mean(matters, spread(metric), alpha)
    why = f"{unit} find a difference of {matters:g} (task.smallest_that_matters) as surely"
    return "test cases wanted", wanted, f"{why}; {_way(recipe, made, wanted / num)}"


def _way(recipe: Recipe, made: Material, times: float) -> str:
    """`times` as many cases as there are: where they come from."""
    if times <= 1:
        return "there are as many"
    rows, test = len(made.split.train) + len(made.split.dev) + made.num_test, math.ceil(times * len(made.split.test))
    cap = f", evals.max_cases: {test}" if test > recipe.evals.max_cases else ""
    files = files_of(recipe)
    if "test" in files:
        return f"add {test - made.num_test:,} to the test file{cap}" if test > made.num_test else f"set{cap[1:]}"
    dev = 0.0 if "dev" in files else DEV_OF_TEST * test
    if test + dev > MOST_HELD_OUT * rows:
        return f"{test:,} test rows, and {rows:,} rows are there in all: collect more, or care for larger differences"
    also = "" if "dev" in files else f", data.dev_frac: {dev / rows:.2g}"
    return f"data.test_frac: {math.ceil(100 * test / rows) / 100:g}{also}{cap}"


def level(recipe: Recipe, made: Material) -> float:
    return recipe.evals.alpha / len(made.primary)


def units(made: Material) -> tuple[int, str]:
    """What the comparison counts of the held-out cases: groups, where all have one."""
    groups = [e.group for e in made.split.test]
    return (len(set(groups)), "groups") if all(groups) else (len(groups), "cases")


def spread(metric: Metric) -> float:
    return ASSUMED_SPREAD * metric.span if metric.spread is None else metric.spread
