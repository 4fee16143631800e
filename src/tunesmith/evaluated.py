"""One model, or two side by side, on held-out cases: scores with intervals, a paired comparison, and files of both.

The same rules as in a verdict: one test, the interval made by inverting it, one decision. Where two models need not
differ (a model of your own in place of a hosted one), "no relevant difference" is what is hoped for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith import openings
from tunesmith.answerers import Answered, Answerer
from tunesmith.errors import InputError
from tunesmith.evals.compare import (
    BETTER,
    SAME,
    UNKNOWN,
    WORSE,
    Cases,
    Effect,
    checked_stats,
    claimed,
    measure,
    notes_of,
    plain,
    score_of,
    secondary,
    signed,
    units_of,
)  # fmt: skip
from tunesmith.evals.metrics import Metric
from tunesmith.evaluate import cases_digest
from tunesmith.evaluations import CASES, NAME, REPORT
from tunesmith.files import read_json, write_json, write_text
from tunesmith.folder import Teller
from tunesmith.questions import Questions, num_learned
from tunesmith.stopping import Stop

NUM_LARGEST = 10  # cases that the report shows
MOST_CHARS = 300  # of a text in the report


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked; `runs`: the folders among them, and that of `--like`."""

    what: Answerer
    against: Answerer | None
    runs: tuple[Path, ...]


def default_folder(what: str) -> Path:
    """evaluations/<date>-<what>, with a number where that is taken."""
    end = what.rstrip("/").rpartition("/")[2].replace("#", "-") or "model"
    stem = f"{date.today().isoformat()}-{end}"
    names = (stem, *(f"{stem}-{n}" for n in range(2, 10_000)))
    return next(Path("evaluations") / n for n in names if not (Path("evaluations") / n).exists())


def check_folder(out: Path, *, resume: bool) -> None:
    """Raises InputError where the folder holds something else, or nothing that could go on."""
    if (out / NAME).is_file():
        raise InputError(f"{out} holds a finished evaluation: name another folder with --out")
    if resume and not (out / "answers").is_dir():
        raise InputError(f"{out} holds no evaluation to resume: leave --resume out to start one there")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        way = "add --resume to go on with it, or" if (out / "answers").is_dir() else "it holds other files;"
        raise InputError(f"{out} is not empty: {way} name another folder with --out")


def evaluate(asked: Asked, questions: Questions, out: Path, tell: Teller) -> dict[str, Any]:
    """Asks, compares and writes; returns evaluation.json."""
    kept = out / "answers"
    kept.mkdir(parents=True, exist_ok=True)
    sides = []
    try:
        with Stop(tell.say) as stop, stop.gently("what is being answered"):
            for who in filter(None, (asked.what, asked.against)):
                sides.append(who.answer(questions, kept, progress_of(tell, who.name), stopping(stop, kept)))
    except InputError:
        if not any(kept.iterdir()):  # a mistake that is mended is typed again, with the same --out
            kept.rmdir()
            out.rmdir()
        raise
    earlier = opened_before(questions, asked.runs, out)
    learned = [
        f"{num} of the {len(questions.cases)} cases stand in the training or dev data of {folder}: it has seen them, "
        "and its score on them says little."
        for folder in dict.fromkeys(asked.runs)
        if (num := num_learned(folder, questions.cases))
    ]
    looked = openings.note(earlier, len(questions.cases))
    notes = [*learned, *questions.notes, *([looked] if looked else []), *(n for side in sides for n in side.notes)]
    facts = facts_of(questions, sides, notes)
    pq.write_table(table(questions, sides), out / CASES)
    write_text(out / REPORT, report(facts, questions, sides))
    write_json(out / NAME, facts)
    return facts


def progress_of(tell: Teller, name: str) -> Callable[[int, int], None]:
    return lambda done, of: tell.step(done, of, f"answers of {name}")


def stopping(stop: Stop, kept: Path) -> Callable[[], None]:
    return lambda: stop.check(f"stopped; the answers so far are kept in {kept}")


def opened_before(questions: Questions, runs: Sequence[Path], out: Path) -> list[openings.Opening]:
    """Earlier looks at these cases by others than the runs that are asked; once a folder, however often resumed."""
    path = out / "openings.json"
    if not path.is_file():
        found = openings.open_cases([e.id for e in questions.cases], out, but=runs)
        write_json(path, [asdict(o) for o in found])
    return [openings.Opening(**o) for o in read_json(path)]


def facts_of(questions: Questions, sides: Sequence[Answered], notes: Sequence[str]) -> dict[str, Any]:
    """evaluation.json."""
    metric, cases = questions.metric, questions.cases
    facts: dict[str, Any] = {
        "task": questions.task,
        "metric": metric.name,
        "less_is_better": metric.less_is_better,
        "num_cases": len(cases),
        "source": questions.source,
        "instruction": questions.instruction,
        "max_new_tokens": questions.max_new_tokens,
        "alpha": questions.rules.alpha,
        "smallest_that_matters": questions.matters,
        "models": [scored(questions, side) for side in sides],
        "digests": {"test_cases": cases_digest(cases)},
    }
    if len(sides) == 2:
        facts |= compared(questions, sides)
        notes = [*facts.pop("notes"), *notes]
    return facts | {"notes": list(notes)}


def scored(questions: Questions, side: Answered) -> dict[str, Any]:
    """One model alone."""

    def of(metric: Metric) -> dict[str, Any]:
        outputs = questions.outputs_of(metric, side.answers)
        rows, _ = checked_stats(Cases(questions.references(), outputs, outputs, questions.groups), metric)
        score, interval = score_of(rows, metric, units_of(questions.groups), questions.rules.alpha)
        return {"score": score, "interval": interval}

    others = {metric.name: of(metric) for metric in questions.secondary}
    return {"name": side.name, **side.about, **of(questions.metric), "secondary": others}


def compared(questions: Questions, sides: Sequence[Answered]) -> dict[str, Any]:
    """The first model against the second, by the rules of a verdict."""
    metric, rules, num = questions.metric, questions.rules, len(questions.cases)
    what, against = (questions.outputs(side.answers) for side in sides)
    cases = Cases(questions.references(), against, what, questions.groups)
    found = measure(cases, metric, rules)
    claim = claimed(found, metric, replace(rules, smallest_that_matters=questions.matters), num, (rules.alpha, found.p))
    decision = claim.decision
    notes = notes_of(claim, found, metric, rules, "")
    if decision == UNKNOWN and questions.matters > 0:
        differ = any(a != b for a, b in zip(scores_of(questions, sides[0]), scores_of(questions, sides[1])))
        notes.append(enough(found, metric, questions.matters, num, differ=differ))
    said = [[a.text for a in side.answers] for side in sides]
    texts = Cases(questions.references(), said[1], said[0], questions.groups)
    return {
        "decision": decision,
        "claim": claim_of(found, questions, decision, (sides[0].name, sides[1].name)),
        "effect": found.effect,
        "interval": found.interval,
        "p": found.p,
        "test": found.test,
        "smallest_detectable": found.smallest_detectable,
        "secondary": secondary(texts, questions.secondary, rules),
        "notes": notes,
    }


def enough(found: Effect, metric: Metric, matters: float, num: int, *, differ: bool) -> str:
    """How many cases a parity claim would take: the interval's half width falls with the root of their number, or with
    the number itself where no case differs."""
    times = (found.interval[1] - found.interval[0]) / 2 / matters
    wanted = math.ceil(num * (times**2 if differ else times))
    return (
        f"to show that the two differ by less than {plain(matters, metric)}, if they do not differ at all, takes about "
        f"{wanted:,} cases like these; a larger --matters takes fewer."
    )


def claim_of(found: Effect, questions: Questions, decision: str, names: tuple[str, str]) -> str:
    metric, (what, against) = questions.metric, names
    start = {
        BETTER: f"{what} is better than {against} on {metric.name}",
        WORSE: f"{what} is worse than {against} on {metric.name}",
        SAME: f"{what} and {against} do not differ by as much as {plain(questions.matters, metric)} on {metric.name}",
        UNKNOWN: f"These cases are too few to tell {what} from {against} on {metric.name}",
    }[decision]
    low, high = (signed(end, metric) for end in found.interval)
    return (
        f"{start}: {plain(found.base, metric)} → {plain(found.tuned, metric)}"
        f"{', less is better, a gain of' if metric.less_is_better else ', a difference of'} "
        f"{signed(found.effect, metric)} (interval {low} to {high}) on {len(questions.cases)} cases."
    )


def scores_of(questions: Questions, side: Answered) -> list[float]:
    return [float(s) for s in questions.metric.cases(questions.outputs(side.answers), questions.references())]


def table(questions: Questions, sides: Sequence[Answered]) -> pa.Table:
    """cases.parquet: one row a case."""
    rows: dict[str, Any] = {
        "example_id": [e.id for e in questions.cases],
        "source": [e.source for e in questions.cases],
        "group": [e.group or "" for e in questions.cases],
        "prompt": questions.texts(),
        "reference": questions.references(),
    }
    for stem, side in zip(("", "against_"), sides):
        rows[f"{stem}output"] = [a.text for a in side.answers]
        rows[f"{stem}score"] = scores_of(questions, side)
        rows[f"{stem}stopped"] = [a.stopped for a in side.answers]
        rows[f"{stem}probability"] = pa.array([a.probability for a in side.answers], pa.float64())
    return pa.table(rows)


def report(facts: dict[str, Any], questions: Questions, sides: Sequence[Answered]) -> str:
    """report.md, for a reader who has nothing else."""
    lines = [f"# {' against '.join(side.name for side in sides)}", ""]
    if "decision" in facts:
        lines += [f"**{facts['decision'].upper()}**: {facts['claim']}", ""]
    lines += [f"| model | {facts['metric']} | interval |" + "".join(f" {m} |" for m in names_of(facts)),
              "| --- | --- | --- |" + " --- |" * len(names_of(facts))]  # fmt: skip
    for row in facts["models"]:
        low, high = row["interval"]
        others = "".join(f" {row['secondary'][m]['score']:.3f} |" for m in names_of(facts))
        lines.append(f"| {row['name']} | {row['score']:.3f} | {low:.3f} to {high:.3f} |{others}")
    lines += [
        "",
        f"{facts['num_cases']} cases: {facts['source']}. Each model was asked once, greedily, under the same "
        f"instruction as system message, with at most {facts['max_new_tokens']} tokens an answer.",
    ]
    if "test" in facts:
        lines.append(
            f"Test: {facts['test']}, p = {facts['p']:.2g}, level {facts['alpha']:g}. A difference of less than "
            f"{facts['smallest_that_matters']:g} was said not to matter."
        )
    lines += ["", "Instruction:", "", *(f"> {line}" for line in (facts["instruction"] or "(none)").splitlines())]
    if facts["notes"]:
        lines += ["", "## What to know", "", *(f"- {note}" for note in facts["notes"])]
    return "\n".join([*lines, "", *examples(questions, sides), ""])


def names_of(facts: dict[str, Any]) -> list[str]:
    return list(facts["models"][0]["secondary"])


def examples(questions: Questions, sides: Sequence[Answered]) -> list[str]:
    """The cases where the two differ most, else those with the worst scores of the one."""
    scores = [scores_of(questions, side) for side in sides]
    sign = -1 if questions.metric.less_is_better else 1
    by = [abs(a - b) for a, b in zip(*scores)] if len(sides) == 2 else [-sign * s for s in scores[0]]
    order = sorted(range(len(by)), key=lambda k: (-by[k], questions.cases[k].id))
    chosen = [k for k in order if by[k] != 0 or len(sides) == 1][:NUM_LARGEST]
    head = "## Where they differ most" if len(sides) == 2 else "## The lowest scores"
    lines = [head] if chosen else []
    prompts, wanted = questions.texts(), questions.references()
    for k in chosen:
        lines += ["", f"### {questions.cases[k].source or questions.cases[k].id}", "", quoted("asked", prompts[k]),
                  quoted("wanted", wanted[k])]  # fmt: skip
        lines += [quoted(f"{side.name}, {row[k]:.2f}", side.answers[k].text) for side, row in zip(sides, scores)]
    return lines


def quoted(name: str, text: str) -> str:
    """One line of a list: what a model wrote must not become part of the page."""
    short = " ".join(text.split())
    short = short if len(short) <= MOST_CHARS else f"{short[:MOST_CHARS]} …"
    return f"- {name}: `` {short.replace('`', 'ˋ') or '(nothing)'} ``"
