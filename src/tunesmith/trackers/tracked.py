"""The trackers that a recipe asks for: each is told the rows of metrics.jsonl, and none can end a run.

A tracker that does not start is an error before training. One that fails later is left out from there on, said aloud
then and once more at the end. The run of each tracker that is ours stands in trackers.json, for a resume to go on with.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import InputError, RunError
from tunesmith.files import write_json
from tunesmith.trackers import mlflow, tensorboard, trackio, wandb
from tunesmith.trackers.asked import Asked

NAME = "trackers.json"


class Tracker(Protocol):
    """`run_id`: what the tracker calls the run; `place`: where a person finds it."""

    run_id: str
    place: str

    def log(self, update: int, facts: Mapping[str, float]) -> None: ...
    def end(self, summary: Mapping[str, Any] | None) -> None: ...  # None: the run was stopped or failed


OPEN: dict[str, tuple[str, Callable[[Asked], Tracker]]] = {  # name -> (package, how it starts)
    "tensorboard": ("tensorboard", tensorboard.TensorBoard),
    "wandb": ("wandb", wandb.WeightsAndBiases),
    "mlflow": ("mlflow", mlflow.MLflow),
    "trackio": ("trackio", trackio.Trackio),
}


class Tracked:
    """The trackers of one run. Left without `end`, the run counts as stopped for them."""

    def __init__(self, names: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
        self.names, self.folder, self.say = tuple(names), folder, say
        self.live: dict[str, Tracker] = {}
        self.failed: dict[str, str] = {}  # name -> what went wrong, and when

    @classmethod
    def of(cls, names: Sequence[str], folder: Path, say: Callable[[str], None]) -> Tracked:
        """Raises InputError where a package is missing: before a model is loaded."""
        for name in names:
            package, _ = OPEN[name]
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"trackers names {name}, whose package is not installed: `pip install 'tunesmith[{name}]'`, or "
                    "take it out of the recipe"
                )
        return cls(names, folder, say)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Start all of them. Raises RunError where one does not: nothing was trained yet."""
        path = self.folder / NAME
        ids = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for tracker in self.names:
            try:
                self.live[tracker] = OPEN[tracker][1](Asked(name, self.folder, settings, ids.get(tracker)))
            except Exception as error:
                raise RunError(
                    f"tracker {tracker} did not start ({in_a_line(error)}), so nothing was trained. Put it right, or "
                    "take it out of `trackers`, and go on with --resume."
                ) from error
            self.say(f"{tracker}: {self.live[tracker].place}")
        if self.names:
            write_json(path, ids | {n: t.run_id for n, t in self.live.items()})

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        """One row of metrics.jsonl."""
        self._each(f"at update {update}", lambda tracker: tracker.log(update, facts))

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """The verdict, or None where there is none; says again what failed."""
        self._each("at the end", lambda tracker: tracker.end(summary))
        self.live = {}
        for name, reason in self.failed.items():
            self.say(f"WARNING: {name} failed {reason}; it lacks what came after. metrics.jsonl has everything")
        self.failed = {}

    def _each(self, when: str, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.live.items()):
            try:
                call(tracker)
            except Exception as error:
                del self.live[name]
                self.failed[name] = f"{when} ({in_a_line(error)})"
                self.say(f"WARNING: {name} failed {self.failed[name]} and is left out; the run goes on without it")

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end(None)


def in_a_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
