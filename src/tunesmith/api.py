"""tunesmith from Python: the same runs, folders and answers as from the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith import recipe as recipes
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.fill import is_template, names_in
from tunesmith.data.turns import messages_of
from tunesmith.errors import InputError
from tunesmith.files import read_json
from tunesmith.folder import Silent, Teller
from tunesmith.heritage import settled
from tunesmith.opened import TUNED, Opened, Served, open_run
from tunesmith.predict import Prediction, Predictor, Unusable, calibration_of
from tunesmith.predict_file import Asked, Done, predict_file
from tunesmith.run import default_name
from tunesmith.run import run as run_recipe
from tunesmith.types import Message

EVERY_S = 5.0  # between two lines of progress

# A text, a row with the run's prompt columns, or a conversation of {"role": …, "content": …}
Prompt = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Lines(Silent):
    """Progress as lines on standard error, as a notebook shows them well."""

    def __init__(self) -> None:
        self.last = 0.0

    def stage(self, name: str, budget_s: float | None) -> None:
        self.say(f"{name} …")

    def step(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if done >= total or now - self.last > EVERY_S:
            self.last = now
            self.say(f"  {done}/{total} {text}")

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.step(update, num_updates, f"updates, loss {facts['loss']:.3f}")

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")


class Run:
    """A finished run in its folder. The model is loaded when it is first asked something, and stays."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._served = Served.read(self.folder)
        self._predictors: dict[str, Predictor] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.decision!r})"

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """verdict.json: decision, claim, metric, base, tuned, effect, interval, num_cases, p and more."""
        path = self.folder / "verdict.json"
        if not path.is_file():
            raise InputError(f"{self.folder} has no verdict yet: go on with it (resume=True, or --resume)")
        found: dict[str, Any] = read_json(path)
        return found

    @property
    def decision(self) -> str:
        """ "better", "worse", "no relevant difference" or "too few cases"."""
        return str(self.verdict["decision"])

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    @property
    def labels(self) -> tuple[str, ...]:
        """What a classifier can answer; () where the answers are texts."""
        return self._served.labels

    def predict(self, prompts: Sequence[Prompt], *, model: str = TUNED) -> list[Prediction]:
        """One Prediction a prompt, in order; `model` is "tuned" or "base". A prompt that cannot be used is no error:
        its Prediction says why in `problem`."""
        if isinstance(prompts, str | Mapping):
            raise InputError("predict wants a list of prompts; for a single one use answer(…)")
        asked = [as_messages(p, self._served.columns) for p in prompts]
        predictor = self._predictor(model)
        size = predictor.batch_rows
        return [p for first in range(0, len(asked), size) for p in predictor(asked[first : first + size])]

    def answer(self, prompt: Prompt, *, model: str = TUNED) -> Prediction:
        """The answer to one prompt, or to a conversation so far."""
        return self.predict([prompt], model=model)[0]

    def predict_file(
        self, source: str | Path, out: str | Path, *, model: str = TUNED, each_label: bool = False,
        resume: bool = False, tell: Teller | None = None,
    ) -> Done:  # fmt: skip
        """What `tunesmith predict` does: every row of a file with an answer, written to `out`."""
        asked = Asked(model, each_label=each_label, resume=resume)
        return predict_file(self.folder, Path(source), Path(out), asked, tell or Lines())

    @cached_property
    def _opened(self) -> Opened:
        return open_run(self.folder)

    def _predictor(self, model: str) -> Predictor:
        if model not in self._predictors:
            self._predictors[model] = Predictor(self._opened, calibration_of(self.folder), model)
        return self._predictors[model]


def load(folder: str | Path) -> Run:
    """A run that `tunesmith run` or `ts.run` left. Raises InputError where there is none."""
    return Run(folder)


def run(
    data: str | Path | Sequence[str | Path] | Mapping[str, Any] | None = None, model: str | Path | None = None, *,
    out: str | Path | None = None, recipe: str | Path | None = None, resume: bool = False, tell: Teller | None = None,
    **overrides: Any,
) -> Run:  # fmt: skip
    """Audit, plan, baseline, train, evaluate, verdict, export and report, as `tunesmith run` does.

    `data`: a file, a folder or several of them, or the recipe's whole `data` part. `recipe`: a YAML file to begin from.
    `overrides`: parts of the recipe, such as train={"epochs": 3}. `tell`: who is told how it goes; ts.Silent() for
    nobody. Raises InputError where something that was given is wrong, Interrupted at Ctrl-C (resume=True goes on).
    """
    said: dict[str, Any] = {} if model is None else {"model": str(model)}
    if isinstance(data, Mapping):
        overrides = {**overrides, "data": data}
    elif data is not None:
        said["data.train"] = [str(data)] if isinstance(data, str | Path) else [str(d) for d in data]
    said |= dict(dotted(overrides))
    if resume and out is None:
        raise InputError("resume=True needs out: the folder of the run that is to go on")
    kept = Path(out) / "recipe.yaml" if resume and recipe is None and data is None and out is not None else recipe
    made, text = settled(*recipes.read(None if kept is None else Path(kept), said))
    folder = Path(out) if out is not None else default_name(made)
    run_recipe(made, text, folder, tell or Lines(), resume=resume)
    return Run(folder)


def dotted(parts: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    """{"train": {"epochs": 3}} -> ("train.epochs", 3)."""
    for name, value in parts.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{stem}{name}.")
        else:
            yield f"{stem}{name}", str(value) if isinstance(value, Path) else value


def as_messages(prompt: Prompt, columns: Columns) -> tuple[Message, ...] | Unusable:
    """A prompt as the run's own rows are read."""
    if isinstance(prompt, str):
        prompt, columns = as_row(prompt, columns)
    try:
        if isinstance(prompt, Mapping):
            return prompt_of(dict(prompt), columns)
        return messages_of(list(prompt), "messages")
    except ValueError as error:
        return Unusable(str(error))


def as_row(text: str, columns: Columns) -> tuple[dict[str, Any], Columns]:
    """A text goes where the run's template has its one column; without a template it is the prompt."""
    templates = [t for t in columns.prompt or () if is_template(t)]
    if not templates:
        return {"prompt": text}, Columns(prompt=("prompt",))
    names = list(dict.fromkeys(n for t in columns.prompt or () for n in names_in(t)))
    if len(names) > 1:
        raise InputError(
            f"the run's prompt is made of the columns {', '.join(map(repr, names))}: give a dict with these, not a text"
        )
    return {names[0]: text}, columns
