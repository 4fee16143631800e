"""One size of a curve: trained, and measured on dev."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from tunesmith import evaluate
from tunesmith.answered import Sitting
from tunesmith.build import Material, feed_of, num_updates
from tunesmith.data.pack import pack
from tunesmith.engine.memory import Freed
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals.metrics import Metric, mean_of
from tunesmith.fitted import Fitted
from tunesmith.folder import CHECKPOINTS, RunFolder
from tunesmith.measured import outputs
from tunesmith.nested import nested_order, smaller
from tunesmith.recipe import Recipe
from tunesmith.settled import BEST as BEST_WEIGHTS
from tunesmith.side_by_side import Beside, each, once
from tunesmith.trial import Apart, Clock, Given, Within, attempted, learned

RUNG = "rung.json"
On = Literal["loss", "score"]


@dataclass(frozen=True, slots=True)
class Bench(Given):
    """What all rungs share. `order`: example numbers, of which a rung takes the first."""

    fitted: Fitted
    on: On
    order: np.ndarray

    @property
    def metric(self) -> Metric:
        return self.made.alone

    @property
    def less_is_better(self) -> bool:
        return self.on == "loss" or self.metric.less_is_better

    def value(self, sums: np.ndarray) -> np.ndarray:
        """[...] from sums [..., K]."""
        found: np.ndarray = mean_of(sums) if self.on == "loss" else self.metric.value(sums)
        return found


def finished(bench: Bench) -> list[dict[str, Any]]:
    files = sorted((bench.folder.path / "rungs").glob(f"rows_*/{RUNG}"))
    return [bench.folder.read(str(f.relative_to(bench.folder.path))) for f in files]


@dataclass(frozen=True, slots=True)
class Rung(Apart):
    """What another process needs to train one."""

    fitted: Recipe  # with nothing left open
    freed: Freed
    num_trained: int
    on: On
    size: int
    until_s: float  # of the clock on the wall


def each_trained(bench: Bench, sizes: Sequence[int], until: float, beside: Beside | None) -> Iterator[dict[str, Any]]:
    """One after another, or `beside` each other, in the order in which they end."""

    def begun() -> Iterator[Rung]:
        recipe, fitted = bench.recipe, bench.fitted
        for size in sizes:
            bench.folder.tell.stage(f"{size} rows", None)
            yield Rung(recipe, bench.text, bench.folder.path, bench.where, fitted.recipe, fitted.freed,
                       fitted.num_trained, bench.on, size, time.time() + until - time.monotonic())  # fmt: skip

    if beside is None:
        yield from (trained(bench, rung.size, until) for rung in begun())
    else:
        yield from (row for _, row in each(beside, bench.folder.stop, trained_apart, begun()))


def trained_apart(rung: Rung) -> dict[str, Any]:
    """In a process of its own, which keeps model and data for the next one."""

    def laid_out() -> Bench:
        folder, base, made = rung.laid_out()
        feed = feed_of(rung.fitted, base, made)
        fitted = Fitted(rung.fitted, feed, None, rung.freed, rung.num_trained, ())
        order = nested_order(made)
        return Bench(rung.recipe, rung.text, folder, base, made, rung.where, fitted, rung.on, order)

    bench = once(str(rung.out), laid_out)
    with bench.folder.stop:
        return trained(bench, rung.size, time.monotonic() + rung.until_s - time.time())


def trained(bench: Bench, size: int, until: float) -> dict[str, Any]:
    """One rung, with its sums over dev cases; rung.json where it came to its end."""
    began = time.monotonic()
    row: dict[str, Any] = {"rows": size, "state": "done", "why": "", "updates": 0}
    path = bench.folder.path / "rungs" / f"rows_{size:09d}"
    path.parent.mkdir(exist_ok=True)
    made = smaller(bench.made, bench.order, size)
    fitted = replace(bench.fitted, feed=feed_of(bench.fitted.recipe, bench.base, made))
    inner = RunFolder.open(path, Within(bench.folder.tell), resume=(path / "recipe.yaml").is_file())
    inner.stop = bench.folder.stop

    def measured() -> np.ndarray:
        clock = Clock(num_updates(fitted.recipe, fitted.feed), until)
        with learned(fitted, inner, bench.base, made, clock, row) as (session, snapshot, _):
            return sums_of(bench, session, snapshot)

    try:
        inner.write_text("recipe.yaml", bench.text)
        sums = attempted(row, measured)
        row["seconds"] = round(time.monotonic() - began, 2)
        if sums is not None:
            row["sums"] = sums.tolist()
            inner.write(RUNG, row)
            for kept_for_a_resume in (CHECKPOINTS, BEST_WEIGHTS.parent.name):
                shutil.rmtree(path / kept_for_a_resume, ignore_errors=True)
    finally:
        inner.close()
    return row


def sums_of(bench: Bench, session: Session, who: Who) -> np.ndarray:
    """[n, K] of what was summed over each dev case."""
    made, recipe = bench.made, bench.fitted.recipe
    if bench.on == "loss":
        return losses(session, who, recipe, made)
    tell = bench.folder.tell
    sitting = Sitting(lambda done, of: tell.step(done, of, "answers to the dev cases"))
    asked = evaluate.ask(session, who, recipe, made, made.forms[0], made.split.dev, sitting)
    return bench.metric.stats(outputs(bench.metric, asked.answers), made.references(made.split.dev))


def losses(session: Session, who: Who, recipe: Recipe, made: Material) -> np.ndarray:
    """[n, 2] nats and learned tokens, weighted, of each dev case; zeros where it could not be rendered."""
    place = {e.id: i for i, e in enumerate(made.split.dev)}
    found = torch.zeros(len(place), 2, dtype=torch.float64)
    forests = pack(made.dev.records, recipe.train.micro, session.base.rope)
    for forest, logp_L in zip(forests, session.logprobs(who, forests), strict=True):
        at_N = torch.nonzero(forest.weights != 0)[:, 0]
        owner_L = forest.owner[torch.searchsorted(forest.stop, at_N, right=True)]
        row_L = torch.tensor([place[name] for name in forest.example_ids])[owner_L]
        weight_L = forest.weights[at_N].double()
        found.index_add_(0, row_L, torch.stack([-logp_L.double() * weight_L, weight_L], dim=1))
    return found.numpy()
