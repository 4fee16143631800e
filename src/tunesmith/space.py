"""What `tunesmith sweep` tries: keys of a recipe, each with a list of values or a range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.errors import RecipeError, did_you_mean
from tunesmith.plain_yaml import load_yaml

GROUPS = ("adapt", "objective", "regularise", "train")  # of a recipe: how is learned, never what is asked or compared
NO_CHOICE = (  # keys in these groups that change no result, or only when something is looked at
    "train.checkpointing", "train.compile", "train.every_checkpoint", "train.every_dev", "train.every_watch",
    "train.micro_tokens", "train.on_nan", "train.rehearsal", "train.watch", "train.watch_prompts",
)  # fmt: skip
LOADED = ("objective.distil.teacher",)  # with the base, once for all trials
DIGITS = 3  # of a number that is tried
WIDE = 10.0  # a range whose ends differ by more than this factor is searched by factors


@dataclass(frozen=True, slots=True)
class Sweep:
    """How `tunesmith sweep` looks for better settings. A run itself reads `tried` alone."""

    # key -> values to try, such as [8, 16, 64] or "1e-5..1e-3"; empty: learning rate, epochs, and LoRA's rank
    space: dict[str, Any] = field(default_factory=dict)
    trials: int = 20  # settings that are tried; 10 for two keys, 50 for five
    minutes: float | None = None  # ends the search after this time, with the best so far; null: all trials
    on: Literal["loss", "score"] = "loss"  # what is best on dev: nats per token, or the task's metric, which is slower
    # what ends a setting that looks hopeless: worse than half of the others at the same place, or hyperband's brackets
    prune: Literal["median", "hyperband", "off"] = "median"
    tried: int = 0  # settings that were tried on dev before this recipe was chosen; the verdict says it


@dataclass(frozen=True, slots=True)
class Dimension:
    """One key, with `choices`, or from `low` to `high`."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_whole: bool = False

    @property
    def is_log(self) -> bool:
        """Whether factors, and no differences, are what counts."""
        return self.low > 0 and self.high / self.low >= WIDE

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that a recipe must take for all between them to be taken."""
        return self.choices or (self.value(self.low), self.value(self.high))

    @property
    def words(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        low, high = self.ends
        return f"{low:g} to {high:g}" + (" (by factors)" if self.is_log else "")

    def value(self, number: float) -> Any:
        return round(number) if self.is_whole else float(f"{number:.{DIGITS}g}")

    def holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    @property
    def num_values(self) -> float:
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_whole else math.inf


def dimension(key: str, said: Any) -> Dimension:
    """From what a recipe says. RecipeError where that is neither a list of two or more nor a range."""
    if isinstance(said, str) and ".." in said:
        low, high = (number_of(key, said, end) for end in said.split("..", 1))
        if not low < high:
            raise RecipeError(f"sweep.space {key} is {said}; wanted a range from less to more")
        is_whole = isinstance(low, int) and isinstance(high, int)
        return Dimension(key, low=low, high=high, is_whole=is_whole)
    if isinstance(said, (list, tuple)) and len(said) > 1:
        choices = tuple(tuple(c) if isinstance(c, list) else number_in(c) for c in said)
        if len(set(map(repr, choices))) == len(choices):
            return Dimension(key, choices)
    raise RecipeError(
        f"sweep.space {key} is {said!r}; wanted two values or more, each once, such as [8, 16], or a range such as "
        "1e-5..1e-3"
    )


def number_in(said: Any) -> Any:
    """A number, where YAML 1.1 leaves it a text (1e-4); anything else as it is."""
    try:
        return float(said) if isinstance(said, str) else said
    except ValueError:
        return said


def number_of(key: str, said: str, end: str) -> int | float:
    try:
        return int(end) if end.strip().lstrip("+-").isdigit() else float(end)
    except ValueError:
        raise RecipeError(f"sweep.space {key} is {said}; {end.strip()!r} is no number") from None


def tried(text: str) -> tuple[str, Any]:
    """`lr=1e-5..1e-3` or `adapt.rank=8,16,64` of the command line: (key, what a recipe would say)."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise RecipeError(f"--try {text}: wanted key=values, such as --try lr=1e-5..1e-3 or --try adapt.rank=8,16,64")
    return key, value if ".." in value else load_yaml(value if value.startswith("[") else f"[{value}]")


def full_key(name: str, known: Iterable[str]) -> str:
    """The key of a recipe that is meant: `lr` is train.lr. RecipeError where it is none that a sweep may try."""
    every = list(known)
    may = [k for k in every if k.split(".")[0] in GROUPS and k not in (*NO_CHOICE, *LOADED)]
    found = [k for k in may if k == name] or [k for k in may if k.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise RecipeError(f"sweep: {name} may be {' or '.join(found)}: say which")
    if name in every:
        why = "changes no result" if name in NO_CHOICE else "would change what is asked or compared"
        why = "is loaded once for all trials" if name in LOADED else why
        raise RecipeError(
            f"sweep: {name} {why}, so no score on dev can choose it; keys of {', '.join(GROUPS)} can be tried. To "
            "compare others: one run each, then `tunesmith compare`"
        )
    raise RecipeError(f"sweep: no recipe has a key {name}.{did_you_mean(name, may)}")


def dimensions(space: Mapping[str, Any], known: Sequence[str]) -> tuple[Dimension, ...]:
    found = [dimension(full_key(name, known), said) for name, said in space.items()]
    keys = [d.key for d in found]
    twice = [k for k in keys if keys.count(k) > 1]
    if twice:
        raise RecipeError(f"sweep.space names {twice[0]} twice")
    return tuple(found)


def usual(method: str, lr: float, epochs: int) -> tuple[Dimension, ...]:
    """What is tried where nobody says: the rate from a fifth to five times of what would be taken, up to twice the
    epochs, and LoRA's rank."""
    rate = Dimension("train.lr", low=float(f"{lr / 5:.2g}"), high=float(f"{lr * 5:.2g}"))
    found = [rate, Dimension("train.epochs", tuple(range(1, 2 * epochs + 1)))]
    return (*found, Dimension("adapt.rank", (4, 8, 16, 32, 64))) if method == "lora" else tuple(found)


def check_sweep(asked: Sweep) -> None:
    """RecipeError for a budget that is none."""
    for key, value in (("trials", asked.trials), ("minutes", 1 if asked.minutes is None else asked.minutes)):
        if not value > 0:
            raise RecipeError(f"sweep.{key} is {value}; wanted a number above 0")
    if asked.tried < 0:
        raise RecipeError(f"sweep.tried is {asked.tried}; wanted how many settings were tried, or 0")


def chosen_note(tried: int) -> str:
    """For the verdict of a run whose recipe a sweep chose; "" where none did."""
    return f"the recipe was chosen among {tried} settings on dev; that choice saw no test case." if tried else ""
