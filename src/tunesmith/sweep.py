"""`tunesmith sweep`: which settings of a recipe do best on dev. No trial sees a test case: they are put away before.

A trial is the training of a run, through the same code, on a base that is loaded once. What each came to is kept in a
SQLite file at once, so a search that is killed goes on, and into the trial that it was killed in.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from math import isfinite
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any

import yaml

from tunesmith import evaluate, method
from tunesmith.answered import Sitting
from tunesmith.build import (
    compute,
    learning_rate,
    load_base,
    material,
    num_updates,
)
from tunesmith.errors import InputError, PlanError, RunError
from tunesmith.files import write_json, write_text
from tunesmith.fitted import fit, fit_or_halve
from tunesmith.folder import CHECKPOINTS, RunFolder, Teller
from tunesmith.heritage import refuse_unlike
from tunesmith.importing.reading import flat
from tunesmith.probing import start_head
from tunesmith.recipe import Recipe, known_keys, parse, place
from tunesmith.report import sweep_page
from tunesmith.settled import BEST as BEST_WEIGHTS
from tunesmith.side_by_side import Beside, each, once
from tunesmith.sources import check_files
from tunesmith.space import Dimension, dimensions, full_key, usual
from tunesmith.study import NUM_LOOKS, Asked, Study, best
from tunesmith.trial import (
    Apart,
    Clock,
    Ended,
    Given,
    Within,
    attempted,
    learned,
    put_away,
    refuse_changed,
    refuse_other,
)

NAME, BEST = "sweep.json", "best.yaml"
SAME = "same.json"  # what must be the same for a search to go on
BUDGET = ("sweep.trials", "sweep.minutes")  # may be other ones when it goes on


class Looking(Clock):
    """Ends a trial that looks hopeless too."""

    def __init__(self, asked: Asked, updates: int, until: float) -> None:
        super().__init__(updates, until)
        self.asked = asked

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        super().log(update, facts)
        loss = facts.get("dev_loss")
        if loss is None or not 0 < update < self.updates:
            return
        if not isfinite(loss):
            raise Ended("diverged", f"loss on dev is no number at update {update}")
        look = round(NUM_LOOKS * update / self.updates)
        if self.asked.report(look, loss):
            raise Ended("pruned", f"loss on dev {loss:.4g} at update {update} of {self.updates} is behind the others")


@dataclass(frozen=True, slots=True)
class Bench(Given):
    """What all trials share."""

    dimensions: tuple[Dimension, ...]
    lr: float  # that the recipe takes by itself


def trying(text: str, said: Mapping[str, Any]) -> tuple[Recipe, str]:
    """(recipe, text) that tries what the command line says, beside what the recipe says of other keys."""
    settings = yaml.safe_load(text) or {}
    known = known_keys()
    space = {full_key(name, known): value for name, value in parse(settings).sweep.space.items()}
    place(settings, "sweep.space", space | {full_key(name, known): value for name, value in said.items()})
    return parse(settings), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def sweep(
    recipe: Recipe, text: str, out: Path, tell: Teller, *, resume: bool = False, beside: Beside | None = None
) -> dict[str, Any]:
    """Tries settings until trials or time are used up; returns sweep.json. best.yaml is the recipe to run. `beside`:
    where they are tried side by side; None: here, one after another."""
    named = dimensions(recipe.sweep.space, known_keys())
    for d in named:
        for value in d.ends:
            changed(text, {d.key: value})
    check_files(recipe)
    folder = RunFolder.open(out, tell, resume=resume)
    try:
        if resume:
            refuse_other(recipe, out, "sweep", BUDGET)
        folder.write_text("recipe.yaml", text)
        with folder.stop:
            return search(laid_out(recipe, text, folder, named), beside)
    except InputError:
        if not resume and not (out / SAME).is_file():
            folder.take_back()
        raise
    finally:
        folder.close()


def changed(text: str, values: Mapping[str, Any], *, tried: int | None = None) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with these values; with `tried`, as it is left behind: of its sweep only the count."""
    settings = yaml.safe_load(text)
    for key, value in values.items():
        place(settings, key, list(value) if isinstance(value, tuple) else value)
    if tried is not None:
        settings["sweep"] = {"tried": tried}
    for key, switch in method.idle(parse(settings)).items():
        if switch in values and key not in values:  # the recipe says it for another trial of the space
            *groups, last = key.split(".")
            del reduce(getitem, groups, settings)[last]
    return parse(settings), settings


def laid_out(recipe: Recipe, text: str, folder: RunFolder, named: tuple[Dimension, ...]) -> Bench:
    """Model and data, once for all trials; the test cases are put away here."""
    folder.tell.stage("prepare", None)
    where = compute(recipe)
    with folder.doing("model loaded and probed"):
        base = load_base(recipe, where, learns=True)
    made = put_away(material(recipe, base, step=folder.tell.step))
    if not made.dev.records:
        raise PlanError("a sweep chooses on dev, and there is none: give data.dev or a data.dev_frac above 0")
    if made.kind.rewards:
        raise PlanError("a sweep compares trials whose feeds stand in a file, and here each samples its own: leave it")
    if made.before is not None:
        for d in named:
            for value in d.ends:
                refuse_unlike(made.before, changed(text, {d.key: value})[0], base)
    start_head(recipe, folder, base, made)
    own, _ = changed(text, {d.key: attrgetter(d.key)(recipe) for d in named})  # without what other trials read
    where, base, fitted = fit_or_halve(own, base, made, where)
    lr, _ = learning_rate(recipe, base, made.kind, num_updates(recipe, fitted.feed))
    space = named or usual(recipe.adapt.method, lr, recipe.train.epochs)
    if recipe.train.max_updates is not None and not named:
        space = tuple(d for d in space if d.key != "train.epochs")  # it would change nothing
    if made.before is not None and not named:
        space = tuple(d for d in space if d.key != "adapt.rank")  # the weights that it begins with have theirs
    same = {"data": made.files, "model": base.digest, "space": {d.key: d.words for d in space}}
    refuse_changed(folder, SAME, same, "sweep")
    for d in space:
        folder.tell.say(f"{d.key}: {d.words}")
    folder.tell.say(f"chosen by {recipe.sweep.on} on {len(made.split.dev)} dev cases; no test case is looked at")
    return Bench(recipe, text, folder, base, made, where, space, lr)


def search(bench: Bench, beside: Beside | None) -> dict[str, Any]:
    recipe, folder = bench.recipe, bench.folder
    own = dict(flat(asdict(recipe))) | {"train.lr": bench.lr}
    study = Study(folder.path, bench.dimensions, recipe.sweep, recipe.seed, own)
    num = beside.num if beside else 1
    facts = kept(bench, study)
    for asked, (value, row) in each_tried(bench, orders(bench, study, num), beside):
        study.finish(asked, value, row)
        facts = kept(bench, study)
        name = f"setting {asked.number}: " if beside else ""  # else it is the one whose stage this is
        folder.tell.say(name + in_a_line(facts, row, left_s(recipe, study, num), recipe.sweep.trials))
    if facts["best"] is None:
        reasons = "; ".join(dict.fromkeys(f"{r['state']}: {r['why']}" for r in facts["rows"]))
        raise RunError(f"no setting came to its end, so none can be chosen. {reasons or 'There was no time for one.'}")
    return facts


def orders(bench: Bench, study: Study, num: int) -> Iterator[Setting]:
    """What is tried next, by what is known when it is asked for."""
    recipe, tell = bench.recipe, bench.folder.tell
    while len(study.rows()) + len(study.running) < recipe.sweep.trials and left_s(recipe, study, num) > 0:
        asked = study.ask()
        if asked is None:
            tell.say("every setting of the space was tried")
            return
        shown = ", ".join(f"{key.split('.', 1)[1]} {value}" for key, value in asked.values.items())
        tell.stage(f"setting {asked.number} of at most {recipe.sweep.trials}: {shown}", None)
        yield Setting(recipe, bench.text, bench.folder.path, bench.where, asked, left_s(recipe, study, num))


def left_s(recipe: Recipe, study: Study, num: int) -> float:
    """Seconds of the time budget, which all sittings of a search share. `num`: how many are tried at once."""
    minutes = recipe.sweep.minutes
    return float("inf") if minutes is None else 60 * minutes - sum(r["seconds"] for r in study.rows()) / num


def each_tried(
    bench: Bench, settings: Iterator[Setting], beside: Beside | None
) -> Iterator[tuple[Asked, tuple[float | None, dict[str, Any]]]]:
    if beside is None:
        yield from ((one.asked, tried(bench, one.asked, one.budget_s)) for one in settings)
    else:
        yield from ((one.asked, found) for one, found in each(beside, bench.folder.stop, tried_apart, settings))


@dataclass(frozen=True, slots=True)
class Setting(Apart):
    """What another process needs to try one."""

    asked: Asked
    budget_s: float


def tried_apart(one: Setting) -> tuple[float | None, dict[str, Any]]:
    """In a process of its own, which keeps model and data for the next one."""

    def laid_out() -> Bench:
        return Bench(one.recipe, one.text, *one.laid_out(), one.where, (), 0.0)

    bench = once(str(one.out), laid_out)
    with bench.folder.stop:
        return tried(bench, one.asked, one.budget_s)


def tried(bench: Bench, asked: Asked, budget_s: float) -> tuple[float | None, dict[str, Any]]:
    """(what is to be small, or None where the trial did not come to its end; what stands in its row)."""
    began = time.monotonic()
    row: dict[str, Any] = {"state": "tried", "why": "", "loss": None, "score": None, "updates": 0, "curve": []}
    path = bench.folder.path / "trials" / f"trial_{asked.number:03d}"
    path.parent.mkdir(exist_ok=True)
    recipe, settings = changed(bench.text, asked.values, tried=0)
    inner = RunFolder.open(path, Within(bench.folder.tell), resume=(path / "recipe.yaml").is_file())
    inner.stop = bench.folder.stop
    try:
        inner.write_text("recipe.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        value = attempted(row, lambda: trained(bench, recipe, inner, asked, row, began + budget_s))
    finally:
        inner.close()
    rows = [r for r in inner.metrics() if r.get("dev_loss") is not None and isfinite(r["dev_loss"])]
    row["curve"] = [[r["update"], r["dev_loss"]] for r in rows]
    row["seconds"] = round(time.monotonic() - began, 2)
    for kept_for_a_resume in (CHECKPOINTS, BEST_WEIGHTS.parent.name):
        shutil.rmtree(path / kept_for_a_resume, ignore_errors=True)
    return value, row


def trained(
    bench: Bench, recipe: Recipe, inner: RunFolder, asked: Asked, row: dict[str, Any], until: float
) -> float | None:
    """The training of a run, and its loss or score on dev."""
    made, base = bench.made, bench.base
    fitted = fit(recipe, base, made, bench.where)
    updates = num_updates(recipe, fitted.feed)
    looks = replace(fitted.recipe.train, every_dev=-(-updates // NUM_LOOKS), watch=0, watch_prompts=())
    fitted = replace(fitted, recipe=replace(fitted.recipe, train=looks))
    looking = Looking(asked, updates, until)
    with learned(fitted, inner, base, made, looking, row) as (session, snapshot, made):
        row["loss"] = evaluate.dev_loss(session, snapshot, fitted.recipe, made)
        if not isfinite(row["loss"]):
            raise Ended("diverged", "loss on dev is no number at the end")
        if bench.recipe.sweep.on == "loss":
            return float(row["loss"])
        sitting = Sitting(lambda done, of: inner.tell.step(done, of, "answers to the dev cases"))
        row["score"], small = evaluate.dev_score(session, snapshot, fitted.recipe, made, sitting)
        return small


def kept(bench: Bench, study: Study) -> dict[str, Any]:
    """What is known so far, as JSON, Markdown and a page, and the best recipe so far."""
    recipe, out, rows = bench.recipe, bench.folder.path, study.rows()
    chosen = best(rows)
    num = len(rows) + recipe.sweep.tried
    facts: dict[str, Any] = {
        "best": chosen and chosen["number"], "num_tried": num, "on": recipe.sweep.on,
        "metric": bench.made.metric.name, "num_dev": len(bench.made.split.dev), "model": recipe.model,
        "space": {d.key: d.words for d in bench.dimensions},
        "by_factors": [d.key for d in bench.dimensions if d.is_log],
        "seconds": round(sum(r["seconds"] for r in rows), 1), "rows": rows, "recipe": str(out / BEST),
    }  # fmt: skip
    write_json(out / NAME, facts)
    if chosen is not None:
        _, settings = changed(bench.text, chosen["values"], tried=num)
        head = (
            f"# Setting {chosen['number']} of {num} that tunesmith sweep tried; the best on dev. Test was not seen.\n"
        )
        write_text(out / BEST, head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_text(out / "sweep.md", sweep_page.markdown(facts))
    write_text(out / "sweep.html", sweep_page.page(facts, out.name))
    return facts


def in_a_line(facts: Mapping[str, Any], row: Mapping[str, Any], time_left_s: float, num_trials: int) -> str:
    """For the screen, behind a trial."""
    rows = facts["rows"]
    said = f"{row['state']}: {row['why']}" if row["why"] else sweep_page.measured(row)
    if facts["best"] is not None:
        first = next(r for r in rows if r["number"] == facts["best"])
        said += f"; best so far: setting {first['number']}, {sweep_page.measured(first)}"
    ahead_s = min(time_left_s, (num_trials - len(rows)) * sum(r["seconds"] for r in rows) / len(rows))
    return said + (f"; at most {max(1, round(ahead_s / 60))} min left at this pace" if ahead_s > 0 else "")
