"""Runs side by side: their tuned models on the cases that all of them held out, paired, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from tunesmith import evaluations
from tunesmith.errors import InputError
from tunesmith.evals.compare import BETTER, SAME, UNKNOWN, WORSE, Cases, Effect, Rules, decide, measure, plain, signed
from tunesmith.evals.dialogues import over_turns
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.stats import holm, holm_levels
from tunesmith.importing.reading import flat, shown
from tunesmith.plain_yaml import load_yaml
from tunesmith.report import facts
from tunesmith.report.cases import Case
from tunesmith.report.facts import Facts
from tunesmith.report.shared import Shared, claims_of, matters_of, outputs, shared_cases, unreadable

NUM_LARGEST = 3  # cases shown under a comparison
PROMPT_CHARS = 60


@dataclass(frozen=True, slots=True)
class Side:
    """One run, or one evaluation. Scores and interval are on the shared cases, the decision is that of its own verdict
    ("" where there is none)."""

    letter: str
    folder: str
    model: str
    base: float | None  # None: an evaluation of one model alone
    tuned: float
    interval: tuple[float, float]
    decision: str
    num_cases: int  # that it held out, shared or not
    is_run: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """The second run's tuned model against the first one's on one metric; `effect` is second minus first."""

    first: str
    second: str
    metric: str
    effect: float
    interval: tuple[float, float]  # at `level`, so that it holds 0 if and only if Holm does not reject
    level: float
    p: float
    p_holm: float
    test: str
    decision: str  # of the second: in the words of a verdict
    claim: str
    how: str
    num_better: int  # cases
    num_worse: int
    largest: tuple[str, ...]  # cases with the largest differences, in a line each


@dataclass(frozen=True, slots=True)
class Compared:
    metric: str  # the first primary one, which the scores of sides and cases are of
    num_cases: int
    alpha: float
    smallest_that_matters: float
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    differences: dict[str, tuple[str, ...]]  # dotted key of the recipe -> what each says
    cases: tuple[dict[str, Any], ...]  # the shared ones, with the score of each tuned model

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(folders: Sequence[Path], metric_name: str | None = None) -> Compared:
    """Every pair of runs. Raises InputError where they share no case, or were measured by different metrics."""
    if len(folders) < 2:
        raise InputError(
            "compare wants two or more folders of runs or evaluations: tunesmith compare runs/first runs/second"
        )
    runs = [finished(Path(folder)) for folder in folders]
    verdicts = [r.verdict or {} for r in runs]
    metrics, common = metrics_of(verdicts, metric_name), shared_cases(folders, [r.cases or () for r in runs])
    if any(c.turns for c in common.cases[0]):
        metrics = list(map(over_turns, metrics))
    metric = metrics[0]
    alpha = min(float(v.get("alpha", 0.05)) for v in verdicts)
    matters = [matters_of(verdicts, one) for one in metrics]
    sides = tuple(side(at, str(folders[at]), runs[at], common, metric, alpha) for at in range(len(runs)))
    return Compared(
        metric=metric.name,
        num_cases=len(common.references),
        alpha=alpha,
        smallest_that_matters=matters[0],
        sides=sides,
        pairs=pairs_of(sides, common, list(zip(metrics, matters)), alpha),
        notes=(*notes_of(sides, runs, common), *left_out(verdicts, metrics)),
        differences=differences(runs),
        cases=case_rows(sides, common, metric),
    )


def finished(folder: Path) -> Facts:
    if evaluations.is_evaluation(folder):
        return evaluations.as_run(folder)
    found = facts.read(folder)
    if found.verdict is None or found.cases is None:
        raise InputError(f"{folder} has no verdict with its cases yet: tunesmith run --resume --out {folder}")
    return found


def metrics_of(verdicts: Sequence[Any], name: str | None) -> list[Metric]:
    """The one that is named, or the first of all verdicts and what else all of them have as a primary metric."""
    names = sorted({str(v["metric"]) for v in verdicts})
    if name is None and len(names) > 1:
        raise InputError(f"the verdicts are about different metrics ({', '.join(names)}): name one with --metric")
    chosen = name or names[0]
    if chosen not in METRICS:
        raise InputError(f"there is no metric {chosen!r}; wanted one of {', '.join(sorted(METRICS))}")
    if METRICS[chosen].needs != "answer" and names != [chosen]:  # what was measured is kept of the first metric only
        raise unreadable(METRICS[chosen])
    further = [] if name is not None else [n for n in named(verdicts[0])[1:] if all(n in named(v) for v in verdicts)]
    return [METRICS[chosen], *(METRICS[n] for n in further if n in METRICS and METRICS[n].needs == "answer")]


def named(verdict: Any) -> list[str]:
    return [str(c["metric"]) for c in claims_of(verdict)]


def side(at: int, folder: str, run: Facts, common: Shared, metric: Metric, alpha: float) -> Side:
    is_alone = any(c.base_output is None and c.base_measured is None for c in common.cases[at])
    base = common.outputs(at, metric, "tuned" if is_alone else "base")
    cases = Cases(common.references, base, common.outputs(at, metric), common.groups)
    found = measure(cases, metric, Rules(alpha=alpha))
    verdict = run.verdict or {}
    return Side(
        ascii_uppercase[at % 26], folder, facts.base_model(run).name, None if is_alone else found.base, found.tuned,
        found.tuned_interval, verdict["decision"], len(run.cases or ()), is_run=run.recipe is not None,
    )  # fmt: skip


def pairs_of(
    sides: Sequence[Side], common: Shared, metrics: Sequence[tuple[Metric, float]], alpha: float
) -> tuple[Pair, ...]:
    """All pairs on all metrics (each with what matters of it); the level of each interval is the one at which Holm's
    procedure looks at it."""
    pairs = [(*pair, *one) for one in metrics for pair in combinations(range(len(sides)), 2)]

    def at_level(first: int, second: int, metric: Metric, level: float) -> Effect:
        one, other = (common.outputs(at, metric) for at in (first, second))
        return measure(Cases(common.references, one, other, common.groups), metric, Rules(alpha=level))

    plainly = [at_level(*pair[:3], alpha) for pair in pairs]
    adjusted = holm([found.p for found in plainly])
    levels = holm_levels([found.p for found in plainly], alpha)
    rows = []
    for pair, found, p_holm, level in zip(pairs, plainly, adjusted, levels):
        first, second, metric, matters = pair
        corrected = found if level == alpha else at_level(first, second, metric, level)
        words = Words(sides[first], sides[second], metric, matters, len(pairs), level, p_holm)
        rows.append(words.pair(corrected, common.cases[first], common.cases[second]))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of one comparison."""

    one: Side
    other: Side
    metric: Metric
    matters: float
    num_pairs: int
    level: float
    p_holm: float

    @property
    def first(self) -> str:
        return self.one.letter

    @property
    def second(self) -> str:
        return self.other.letter

    def pair(self, found: Effect, first: Sequence[Case], second: Sequence[Case]) -> Pair:
        decision = decide(found.interval, self.matters)
        scores = [self.metric.cases(outputs(row, self.metric), [c.wanted for c in row]) for row in (first, second)]
        sign = -1 if self.metric.less_is_better else 1
        changes = [sign * (b - a) for a, b in zip(*scores)]
        better, worse = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
        order = sorted(range(len(changes)), key=lambda k: (-abs(changes[k]), first[k].example_id))
        largest = tuple(self.line(first[k], second[k], changes[k]) for k in order[:NUM_LARGEST] if changes[k])
        how = f"{found.test}, p = {found.p:.2g}"
        if self.num_pairs > 1:
            how += f", {self.p_holm:.2g} by Holm over {self.num_pairs} comparisons, interval at level {self.level:.3g}"
        same = len(changes) - better - worse
        how += f"; {self.second} scores higher in {better} cases, lower in {worse}, the same in {same}"
        return Pair(
            self.first, self.second, self.metric.name, found.effect, found.interval, self.level, found.p, self.p_holm,
            found.test, decision, self.claim(found, decision, len(changes)), how, better, worse, largest,
        )  # fmt: skip

    def claim(self, found: Effect, decision: str, num_cases: int) -> str:
        metric = self.metric
        model = "tuned model" if self.one.is_run and self.other.is_run else "model"
        start = {
            BETTER: f"The {model} of {self.second} is better than that of {self.first} on {metric.name}",
            WORSE: f"The {model} of {self.second} is worse than that of {self.first} on {metric.name}",
            SAME: f"{self.first} and {self.second} do not differ by as much as {plain(self.matters, metric)} on "
            f"{metric.name}",
            UNKNOWN: f"These cases are too few to tell {self.first} from {self.second} on {metric.name}",
        }[decision]
        low, high = (signed(end, metric) for end in found.interval)
        return (
            f"{start}: {plain(found.base, metric)} → {plain(found.tuned, metric)}, a difference of "
            f"{signed(found.effect, metric)} (interval {low} to {high}) on {num_cases} shared cases."
        )

    def line(self, first: Case, second: Case, change: float) -> str:
        return (
            f"{change:+.2f}  {shown(first.prompt, PROMPT_CHARS)}   {self.first}: {shown(first.tuned_output, 40)}   "
            f"{self.second}: {shown(second.tuned_output, 40)}   ({first.example_id})"
        )


def notes_of(sides: Sequence[Side], runs: Sequence[Facts], common: Shared) -> tuple[str, ...]:
    notes = []
    num = len(common.references)
    odd = [s for s in sides if s.num_cases > num]
    if odd:
        counts = ", ".join(f"{s.letter} {s.num_cases}" for s in sides)
        notes.append(f"the test sets differ ({counts} cases): the {num} cases that all runs held out are compared.")
    if len({facts.base_model(run).digest for run in runs if run.recipe is not None}) > 1:
        notes.append("the runs started from different base models.")
    if len(sides) > 2:
        notes.append(
            "the differences are corrected for their number; the score of the run that looks best is still flattered "
            "by having been chosen: ask it fresh cases before relying on the figure."
        )
    return tuple(notes)


def left_out(verdicts: Sequence[Any], metrics: Sequence[Metric]) -> list[str]:
    own = dict.fromkeys(n for v in verdicts for n in named(v))
    return [
        f"{name} is a primary metric of these runs too, and no claim here: name it with --metric."
        for name in own
        if name not in [m.name for m in metrics]
    ]


def differences(runs: Sequence[Facts]) -> dict[str, tuple[str, ...]]:
    """Keys that the recipes say differently, and what the plans resolved differently."""
    said = []
    for run in (r for r in runs if r.recipe is not None):
        recipe = {key: shown(value) for key, value in flat(load_yaml(run.recipe or "") or {})}
        resolved = {row["key"]: f"{shown(row['value'])} (resolved)" for row in (run.plan or {}).get("resolved", ())}
        said.append({**resolved, **recipe})
    keys = dict.fromkeys(key for one in said for key in one)
    rows = {key: tuple(one.get(key, "(default)") for one in said) for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def case_rows(sides: Sequence[Side], common: Shared, metric: Metric) -> tuple[dict[str, Any], ...]:
    """One row per shared case, for programs."""
    outputs = [common.outputs(at, metric) for at in range(len(sides))]
    scores = [metric.cases(answers, common.references) for answers in outputs]
    return tuple(
        {
            "example_id": case.example_id,
            "prompt": case.prompt,
            "reference": case.wanted,
            "outputs": {s.letter: outputs[at][k] for at, s in enumerate(sides)},
            "scores": {s.letter: scores[at][k] for at, s in enumerate(sides)},
        }
        for k, case in enumerate(common.cases[0])
    )
