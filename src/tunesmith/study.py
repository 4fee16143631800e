"""Optuna, wrapped: which setting is tried next, which looks hopeless, and what is known so far, in one SQLite file.

The sampler is seeded by the number of the trial, so a search that was killed proposes what it would have proposed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from tunesmith.space import Dimension, Sweep

NAME = "sweep.db"
NUM_LOOKS = 10  # most, at dev, in each trial
FIRST_LOOK = 4  # at which a trial may be ended: before it, a low learning rate is behind, whatever it comes to
NUM_FREE = 4  # trials that came to their end before one is held against them
NUM_RANDOM = 10  # trials before the sampler builds on them; at most half of all
MOST_AGAIN = 50  # settings in a row that were tried already, after which there is nothing new to try
ROW, NUMBER = "row", "number"


@dataclass(slots=True)
class Asked:
    """One setting to try. It goes to another process as it is."""

    number: int  # of the settings, from 1
    values: dict[str, Any]
    trial: optuna.Trial
    known: frozenset[int] = frozenset()  # looks that were told before a kill

    def report(self, look: int, loss: float) -> bool:
        """Tell the loss on dev at a look; whether the trial is hopeless."""
        if look not in self.known:
            self.trial.report(loss, look)
        return bool(self.trial.should_prune())


def pruner(name: str) -> optuna.pruners.BasePruner:
    """Looks are at the same share of each trial's own updates, so that long and short ones are compared fairly."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=NUM_FREE, n_warmup_steps=FIRST_LOOK)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=FIRST_LOOK, max_resource=NUM_LOOKS, reduction_factor=3)
    return optuna.pruners.NopPruner()


def opened(folder: Path, sweep: Sweep) -> optuna.Study:
    return optuna.create_study(
        storage=f"sqlite:///{(folder / NAME).resolve()}", study_name="sweep", direction="minimize",
        pruner=pruner(sweep.prune), load_if_exists=True,
    )  # fmt: skip


class Study:
    """The search in a folder. `own`: the recipe's own values, which are tried first."""

    def __init__(
        self, folder: Path, dimensions: Sequence[Dimension], sweep: Sweep, seed: int, own: Mapping[str, Any]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.dimensions, self.sweep, self.seed = tuple(dimensions), sweep, seed
        self.study = opened(folder, sweep)
        self.running: dict[int, Asked] = {}  # what was asked for and not finished, by Optuna's number
        size = 1.0
        for d in self.dimensions:
            size *= d.num_values
        self.is_small = size <= sweep.trials
        first = {d.key: coded(d, own[d.key]) for d in self.dimensions if d.holds(own.get(d.key))}
        if first:
            self.study.enqueue_trial(first, skip_if_exists=True)
        if self.is_small:
            self.enqueue_all()

    def enqueue_all(self) -> None:
        """Every setting there is, in an order drawn by the seed."""
        each = [[coded(d, v) for v in d.choices or range(int(d.low), int(d.high) + 1)] for d in self.dimensions]
        settings = list(itertools.product(*each))
        random.Random(self.seed).shuffle(settings)
        for setting in settings:
            self.study.enqueue_trial({d.key: c for d, c in zip(self.dimensions, setting)}, skip_if_exists=True)

    def ask(self) -> Asked | None:
        """One that a killed search left, else the next; None where all there is was tried."""
        known: dict[str, float | None] = {as_text(asked.values): None for asked in self.running.values()}
        known |= {as_text(r["values"]): t.value if t.state == TrialState.COMPLETE else None for t, r in self.finished()}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self.running:
                return self.begun(optuna.Trial(self.study, trial._trial_id), trial)
        for _ in range(MOST_AGAIN):
            if self.is_small and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return None
            num = len(self.study.get_trials(deepcopy=False))
            digest = hashlib.sha256(f"{self.seed} {num}".encode()).digest()
            startup = min(NUM_RANDOM, max(1, self.sweep.trials // 2))
            self.study.sampler = optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "big"), n_startup_trials=startup
            )
            fresh = self.study.ask()
            values = as_text(self.values(fresh))
            if values not in known:
                return self.begun(fresh)
            self.tell(fresh, known[values])
        return None

    def begun(self, trial: optuna.Trial, left: optuna.trial.FrozenTrial | None = None) -> Asked:
        """`left`: as a killed search left it."""
        looks = frozenset(left.intermediate_values) if left is not None else frozenset[int]()
        if NUMBER not in trial.user_attrs:
            trial.set_user_attr(NUMBER, len(self.rows()) + len(self.running) + 1)
        asked = Asked(trial.user_attrs[NUMBER], self.values(trial), trial, looks)
        self.running[trial.number] = asked
        return asked

    def values(self, trial: optuna.Trial) -> dict[str, Any]:
        return {d.key: suggested(trial, d) for d in self.dimensions}

    def finish(self, asked: Asked, value: float | None, row: Mapping[str, Any]) -> None:
        """`value`: what is to be small; None where the trial did not come to its end."""
        asked.trial.set_user_attr(ROW, {"number": asked.number, "values": asked.values, **row, "value": value})
        del self.running[asked.trial.number]
        self.tell(asked.trial, value)

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def finished(self) -> list[tuple[optuna.trial.FrozenTrial, dict[str, Any]]]:
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [(t, t.user_attrs[ROW]) for t in trials if ROW in t.user_attrs]

    def rows(self) -> list[dict[str, Any]]:
        """What each setting that was tried came to, in their order."""
        return sorted((row for _, row in self.finished()), key=lambda row: row["number"])


def as_text(values: Mapping[str, Any]) -> str:
    """By which equal settings are told, here and as the database gives them back."""
    return json.dumps(values, sort_keys=True)


def coded(d: Dimension, value: Any) -> Any:
    """As Optuna keeps it: of a list its place, since what it holds may be lists themselves."""
    return d.choices.index(value) if d.choices else value


def suggested(trial: optuna.Trial, d: Dimension) -> Any:
    if d.choices:
        return d.choices[trial.suggest_categorical(d.key, list(range(len(d.choices))))]
    if d.is_whole:
        return trial.suggest_int(d.key, int(d.low), int(d.high), log=d.is_log)
    return d.value(trial.suggest_float(d.key, d.low, d.high, log=d.is_log))


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The setting with the least value, the first of equals; None where none came to its end."""
    ended = [r for r in rows if r["value"] is not None and isfinite(r["value"])]
    return min(ended, key=lambda r: (r["value"], r["number"]), default=None)
