"""`tunesmith curve`: what the recipe comes to on fewer rows, and by that what twice as many would bring.

The sizes are a ladder, each rung contained in the next; dev is the same for all, and no rung sees a test case. A rung
is the training of a run, on a base that is loaded once; finished ones are kept.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import pace
from tunesmith.build import Material, compute, feed_of, load_base, material, num_updates
from tunesmith.engine.cuts import Cuts
from tunesmith.errors import InputError, PlanError, RunError
from tunesmith.evals import power_law
from tunesmith.evals.metrics import Metric
from tunesmith.files import write_json, write_text
from tunesmith.fitted import fit_or_halve
from tunesmith.folder import RunFolder, Teller
from tunesmith.nested import nested_order, smaller
from tunesmith.probing import start_head
from tunesmith.recipe import Recipe
from tunesmith.report import curve_page
from tunesmith.rungs import Bench, On, each_trained, finished, sums_of
from tunesmith.side_by_side import Beside
from tunesmith.sources import check_files
from tunesmith.speeds import Speeds, session_of, try_out
from tunesmith.trial import put_away, refuse_changed, refuse_other

NAME, SAME, SPEEDS = "curve.json", "same.json", "speeds.json"
NUM_RUNGS, LEAST_ROWS = 6, 8  # of a whole ladder, each of twice the rows of the one below; rows of the lowest
SHRINK = 2**-0.5  # of the ladder, until it fits the time
NUM_DRAWS = 2000
SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_of(text: str) -> float:
    """30m, 2h, 1h30m, 90s."""
    found = SPAN.fullmatch(text.strip())
    seconds = sum(float(n or 0) * each for n, each in zip(found.groups(), (3600, 60, 1))) if found else 0.0
    if seconds <= 0:
        raise InputError(f"--budget is {text!r}; wanted a time such as 30m, 2h, 1h30m or 90s")
    return seconds


@dataclass(frozen=True, slots=True)
class Climb:
    """`on`: what is measured; None: the task's metric where an answer is one label or nothing is written, else the
    loss. `beside`: where rungs are trained side by side; None: here, one after another."""

    budget_s: float
    on: On | None = None
    beside: Beside | None = None


def curve(recipe: Recipe, text: str, out: Path, tell: Teller, how: Climb, *, resume: bool = False) -> dict[str, Any]:
    """Trains the rungs that fit the time, the smallest first; returns curve.json."""
    began = time.monotonic()
    check_files(recipe)
    folder = RunFolder.open(out, tell, resume=resume)
    try:
        if resume:
            refuse_other(recipe, out, "curve")
        folder.write_text("recipe.yaml", text)
        with folder.stop:
            return climbed(laid_out(recipe, text, folder, how), began, how)
    except InputError:
        if not resume and not (out / SAME).is_file():
            folder.take_back()
        raise
    finally:
        folder.close()


def laid_out(recipe: Recipe, text: str, folder: RunFolder, how: Climb) -> Bench:
    """Model and data, once for all rungs; the test cases are put away here."""
    folder.tell.stage("prepare", None)
    on, where = how.on, replace(compute(recipe), beside=how.beside.num if how.beside else 1)
    with folder.doing("model loaded and probed"):
        base = load_base(recipe, where, learns=True)
    made = put_away(material(recipe, base, step=folder.tell.step))
    refuse(recipe, made, on)
    start_head(recipe, folder, base, made)
    where, base, fitted = fit_or_halve(recipe, base, made, where)
    quiet = replace(fitted.recipe.train, watch=0, watch_prompts=(), every_dev=None)
    fitted = replace(fitted, recipe=replace(fitted.recipe, train=quiet))
    on = on or ("loss" if made.kind.scoring in ("generation", "text") else "score")
    same = {"data": made.files, "model": base.digest, "on": on}
    refuse_changed(folder, SAME, same, "curve")
    folder.tell.say(
        f"measured by {named(on, made.alone)} on {len(made.split.dev)} dev cases; no test case is looked at"
    )
    return Bench(recipe, text, folder, base, made, where, fitted, on, nested_order(made))


def named(on: On, metric: Metric) -> str:
    return "loss" if on == "loss" else metric.name


def refuse(recipe: Recipe, made: Material, on: On | None) -> None:
    """What would make the rungs differ by more than their rows, or cannot be measured."""
    if not made.dev.records:
        raise PlanError("a curve is measured on dev, and there is none: give data.dev or a data.dev_frac above 0")
    if made.kind.rewards:
        raise PlanError("a curve is of rows that are learned from, and here each update samples its own replies")
    if recipe.train.max_updates is not None:
        raise PlanError("train.max_updates gives all sizes as many updates: leave it out, the time has --budget")
    if made.replay.num_rows or made.again.num_rows:
        raise PlanError("a curve is of the rows of data alone: leave data.replay and parent.replay out")
    if any(source.shots for source in recipe.data.sources):
        raise PlanError("data.sources has shots, and these are rows that a small size is not to see: leave shots out")
    if on == "loss" and made.kind.prefers:
        raise PlanError("the loss of pairs and marks is none of single tokens: leave --on out, or say --on score")


def ladder(top: int) -> list[int]:
    """From the smallest: each size twice the one before; [] where it would be too short."""
    sizes = [n for k in reversed(range(NUM_RUNGS)) if (n := top // 2**k) >= LEAST_ROWS]
    return sizes if len(sizes) >= power_law.LEAST_SIZES else []


def chosen(bench: Bench, left_s: float, done: Sequence[int]) -> tuple[list[int], float]:
    """(the sizes of the largest ladder that fits the time that is left, seconds of those that are not `done`)."""
    before = bench.folder.read(NAME)
    if before is not None:
        missing = [n for n in before["sizes"] if n not in done]
        return before["sizes"], foretold(bench, timed(bench), missing) if missing else 0.0
    num = len(bench.order)
    if not ladder(num):
        least = LEAST_ROWS * 2 ** (power_law.LEAST_SIZES - 1)
        raise PlanError(f"{num} training rows are too few for a curve: wanted at least {least}")
    speeds, top, smallest, tried_s = timed(bench), float(num), list[int](), inf
    while sizes := ladder(int(top)):
        smallest, tried_s = sizes, foretold(bench, speeds, sizes)
        if tried_s <= left_s:
            return sizes, tried_s
        top *= SHRINK
    raise PlanError(
        f"the budget has {max(0.0, left_s):.0f} seconds left, and the shortest ladder ({', '.join(map(str, smallest))} "
        f"rows) takes {pace.said(tried_s)}: give a longer --budget, or fewer train.epochs"
    )


def timed(bench: Bench) -> Speeds:
    """What an update and an answer take here, measured once. Dev stands in for the test cases, whose answers it would
    time."""
    before = bench.folder.read(SPEEDS)
    if before is not None:
        return Speeds.of(before)
    with bench.folder.doing("speed measured"):
        tried = try_out(bench.fitted, bench.base, as_test(bench.made), measures=bench.on == "score")
    tried.session.close()
    bench.folder.write(SPEEDS, asdict(tried.speeds))
    return tried.speeds


def as_test(made: Material) -> Material:
    return replace(made, split=replace(made.split, test=made.split.dev))


def foretold(bench: Bench, speeds: Speeds, sizes: Sequence[int]) -> float:
    """Seconds of these rungs, and of a look at the base."""
    recipe, fitted, seconds, measured_s = bench.fitted.recipe, bench.fitted, 0.0, 0.0
    for num in sizes:
        made = as_test(smaller(bench.made, bench.order, num))
        feed = feed_of(recipe, bench.base, made)
        job = pace.Job(
            recipe, bench.base, made, feed, num_updates(recipe, feed), speeds, fitted.num_trained, fitted.freed.is_short
        )
        measured_s = job.dev_loss_s if bench.on == "loss" else job.asked("tuned", made.forms[0], made.split.dev)
        seconds += job.train() + job.reference() + measured_s
    return seconds + measured_s


def climbed(bench: Bench, began: float, how: Climb) -> dict[str, Any]:
    """Rung by rung while there is time."""
    folder, rungs, budget_s = bench.folder, finished(bench), how.budget_s
    until = began + budget_s - sum(r["seconds"] for r in rungs)
    sizes, ahead_s = chosen(bench, until - time.monotonic(), [r["rows"] for r in rungs])
    folder.tell.say(f"{', '.join(map(str, sizes))} rows of {len(bench.order)}: {pace.said(ahead_s)}")
    said = {"sizes": sizes, "foretold_s": round(ahead_s, 1), "budget_s": budget_s}
    facts = kept(bench, rungs, said)
    missing = [size for size in sizes if size not in (r["rows"] for r in rungs)]
    for row in each_trained(bench, missing, until, how.beside):
        if row["state"] != "done":
            folder.tell.say(f"{row['rows']} rows: {row['why']}")
            break
        rungs = sorted([*rungs, row], key=lambda r: r["rows"])
        facts = kept(bench, rungs, said)
        value = next(r["value"] for r in facts["rungs"] if r["rows"] == row["rows"])
        folder.tell.say(f"{row['rows']} rows: {named(bench.on, bench.metric)} {value:.4f} on dev")
    if len(rungs) < power_law.LEAST_SIZES:
        raise RunError(
            f"{len(rungs)} sizes came to their end, and a curve wants {power_law.LEAST_SIZES}. They are kept: "
            f"tunesmith curve --resume --out {folder.path} goes on, with a longer --budget where the time was over"
        )
    return facts


def base_sums(bench: Bench) -> list[list[float]] | None:
    """Of the model before any row; a new class head has nothing to say."""
    if bench.base.by_head:
        return None
    found: list[list[float]] | None = bench.folder.read("base.json")
    if found is None:
        session = session_of(bench.fitted, bench.base, Cuts())
        try:
            found = sums_of(bench, session, None).tolist()
        finally:
            session.close()
        bench.folder.write("base.json", found)
    return found


def kept(bench: Bench, rungs: Sequence[dict[str, Any]], said: dict[str, Any]) -> dict[str, Any]:
    """What is known so far, as JSON, Markdown and a page."""
    out, made = bench.folder.path, bench.made
    units = [e.group or e.id for e in made.split.dev]
    before = base_sums(bench)
    sums = [np.array(r["sums"]) for r in rungs]
    others = [bench.value(s) for s in power_law.other_cases(sums, units, NUM_DRAWS, bench.recipe.seed)]
    values = [float(bench.value(s.sum(0))) for s in sums]
    facts: dict[str, Any] = {
        "on": bench.on, "metric": named(bench.on, bench.metric), "model": bench.recipe.model,
        "less_is_better": bench.less_is_better, "num_dev": len(made.split.dev), "num_rows": len(bench.order),
        **said, "seconds": round(sum(r["seconds"] for r in rungs), 1),
        "base": None if before is None else float(bench.value(np.array(before).sum(0))),
        "rungs": [
            {**{k: r[k] for k in ("rows", "updates", "seconds")}, "value": v, "interval": list(power_law.ends(o))}
            for r, v, o in zip(rungs, values, others)
        ],
        **(fitted_law(bench, rungs, values, np.stack(others, 1)) if len(rungs) >= power_law.LEAST_SIZES else {}),
    }  # fmt: skip
    write_json(out / NAME, facts)
    write_text(out / "curve.md", curve_page.markdown(facts))
    write_text(out / "curve.html", curve_page.page(facts, out.name))
    return facts


def fitted_law(
    bench: Bench, rungs: Sequence[dict[str, Any]], values: Sequence[float], others_BR: np.ndarray
) -> dict[str, Any]:
    """The law, what it says of twice the rows, and what may be claimed of that."""
    num, sizes = len(bench.order), [float(r["rows"]) for r in rungs]
    bounds = (0.0, inf) if bench.on == "loss" else (bench.metric.low, bench.metric.high)
    found = power_law.curve(sizes, values, others_BR, bench.recipe.seed, bounds)
    a, b, c = found.law.tolist()
    low, high = found.change(num, 2 * num)
    if bench.less_is_better:
        low, high = -high, -low
    gain = (found.of(num) - found.of(2 * num)) * (1 if bench.less_is_better else -1)
    matters = None if bench.on == "loss" else smallest(bench)
    across = np.geomspace(sizes[0], 2 * num, 40)
    return {
        "law": {"a": a, "b": b * found.top**c, "c": c, "exponents": list(found.exponents),
                "is_determined": found.is_determined},
        "twice": {"rows": 2 * num, "from": found.of(num), "to": found.of(2 * num), "gain": gain,
                  "interval": [low, high], "matters": matters, "decision": decided(low, high, matters)},
        "band": [[float(n), found.of(n), *found.interval(n)] for n in across],
    }  # fmt: skip


def smallest(bench: Bench) -> float:
    """The smallest difference that matters, of the metric that is measured."""
    said = bench.recipe.task.smallest_that_matters
    return said if said is not None and bench.metric.name == bench.made.metric.name else bench.metric.matters


def decided(low: float, high: float, matters: float | None) -> str:
    """What twice the rows would do, as far as the interval says."""
    if matters is not None and -matters < low and high < matters:
        return "little"
    return "more" if low > 0 else "less" if high < 0 else "not known"
