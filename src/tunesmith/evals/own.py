"""A metric that is a function of the user's own: `task.metric: "my_metrics.py:score"`.

The function is called with (output, reference) of each case, or with (output, reference, prompt) where it takes three,
and returns a number in the range that the file declares. The file may say, at its top level:

    RANGE = (0, 1)           # the least and the most that the function returns; this one is the default
    LESS_IS_BETTER = False
    MATTERS = 0.02           # the smallest difference that matters; without it, two hundredths of the range

It is trusted code: it runs in this process, with all your rights, like any script that you start.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.errors import InputError
from tunesmith.evals.metrics import Metric, case_mean, measured_score
from tunesmith.files import sha256_file


@dataclass(frozen=True, slots=True)
class Own:
    """The function, and what its file says of it."""

    metric: Metric
    function: Callable[..., Any]
    takes_prompt: bool
    path: Path
    digest: str

    def score(self, output: str, reference: str, prompt: str, where: str) -> float:
        """Of one case; `where` names it in errors."""
        given = (output, reference, prompt) if self.takes_prompt else (output, reference)
        try:
            found = self.function(*given)
        except Exception as error:  # whatever the user's code raises is shown with its own line
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
            at = f"{self.path}:{lines[-1]}" if lines else str(self.path)
            raise InputError(
                f"{at}: {self.function.__name__} failed on case {where}: {type(error).__name__}: {error}"
            ) from error
        low, high = self.metric.low, self.metric.high
        is_number = isinstance(found, (int, float)) or hasattr(found, "__float__")
        value = float(found) if is_number else math.nan
        if not low <= value <= high:
            line = inspect.getsourcelines(self.function)[1]
            raise InputError(
                f"{self.path}:{line}: {self.function.__name__} returned {found!r} for case {where}; wanted a number "
                f"from {low:g} to {high:g}. Declare another range at the top of the file: RANGE = (least, most)"
            )
        return value


def is_own(name: str) -> bool:
    return ".py:" in name


def load(name: str) -> Own:
    """`file.py:function`, run once to define it."""
    file, _, wanted = name.rpartition(":")
    path = Path(file).resolve()
    if not path.is_file():
        raise InputError(f"task.metric is {name!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"own_metric_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code, see above
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise InputError(f"{path}:{at}: cannot be run: {type(error).__name__}: {error}") from error
    function = vars(module).get(wanted)
    if not inspect.isfunction(function):
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise InputError(f"{path} has no function {wanted!r}; it has: {', '.join(there) or 'none'}")
    return Own(metric_of(module, name, path), function, takes_prompt(function, path), path, sha256_file(path))


def takes_prompt(function: Callable[..., Any], path: Path) -> bool:
    for number in (3, 2):
        try:
            inspect.signature(function).bind(*[""] * number)
        except TypeError:
            continue
        return number == 3
    raise InputError(f"{path}: {function.__name__} must take (output, reference) or (output, reference, prompt)")


def metric_of(module: Any, name: str, path: Path) -> Metric:
    said = getattr(module, "RANGE", (0, 1))
    try:
        low, high = (float(v) for v in said)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{path}: RANGE is {said!r}; wanted the least and the most, such as (0, 1)")
    matters = float(getattr(module, "MATTERS", 0.02 * (high - low)))
    less = bool(getattr(module, "LESS_IS_BETTER", False))
    plain = case_mean(name, measured_score, unit=f"mean of {name}, {low:g} to {high:g}", needs="function")
    return replace(plain, low=low, high=high, matters=matters, less_is_better=less)
