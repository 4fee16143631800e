"""The recipe: every choice of a run in one YAML file. It only holds the parts; `build.py` takes it apart.

The comments beside the fields, here and in the parts, are what `tunesmith init` writes into a recipe and `tunesmith
schema` shows in editors: what the key is, and when to change it, in words that need no other page.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from tunesmith.beside import beside
from tunesmith.data import mixture
from tunesmith.data.knobs import Data
from tunesmith.data.packed import SUFFIXES
from tunesmith.data.rows import FORMATS
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.errors import RecipeError, did_you_mean
from tunesmith.evals.knobs import Evals
from tunesmith.evals.tasks import TaskName
from tunesmith.limits import check_strengths
from tunesmith.lineage import Parent
from tunesmith.models.adapters import Adapt, check_bits
from tunesmith.objectives.goal import Goal
from tunesmith.plain_yaml import load_yaml
from tunesmith.regularisers.average import Average
from tunesmith.regularisers.strengths import Regularise
from tunesmith.rollouts import environment, kinds
from tunesmith.rollouts.environment import Environment
from tunesmith.secret import refuse_secrets
from tunesmith.space import Sweep, check_sweep
from tunesmith.spellings import hint as spelled_elsewhere

MICRO_TOKENS = 2048  # most that are picked: more are no faster on a CPU


@dataclass(frozen=True, slots=True)
class Task:
    # the kind of work, which brings instruction and metric along; auto tells it from the columns
    name: TaskName = "auto"
    # classify, multilabel: the language model answers with labels, or a class head gives them (encoders: always)
    by: Literal["labels", "head"] = "labels"
    # what the model is told before every prompt (its system message); null: the task's own, "" for none
    instruction: str | None = None
    # what the verdict is about, locked before training: a name, or "my_metrics.py:score"; null: the task's own; several
    # as a list, each tested at a stricter level (Holm)
    metric: tuple[str, ...] | None = None
    # the smallest difference that you would care about, in the unit of the (first) metric; null: the metric's own
    smallest_that_matters: float | None = None

    @property
    def first(self) -> str | None:
        """The metric that the verdict's own figures are about; None: the task's own."""
        return self.metric[0] if self.metric else None


@dataclass(frozen=True, slots=True)
class EarlyStop:
    patience: int = 0  # looks at dev without a better one, after which training ends with the best weights; 0: off
    every: int | None = None  # updates between two looks; null: ten looks in a run
    on: Literal["loss", "score"] = "loss"  # what is looked at: nats per token, or the task's metric, which takes longer


@dataclass(frozen=True, slots=True)
class Train:
    # learning rate at its peak; auto picks by size and method; halve it when the loss jumps
    lr: float | Literal["auto"] = "auto"
    schedule: Schedule = field(default_factory=Schedule)  # how the learning rate rises and falls
    optim: AdamW = field(default_factory=AdamW)  # the optimizer
    average: Average = field(default_factory=Average)  # which weights are the run's, once its updates are made
    early_stop: EarlyStop = field(default_factory=EarlyStop)  # ends training where dev gets no better
    by_depth: float = 1.0  # each layer's rate is that of the one above divided by this; 2.6 in ULMFiT; 1: all alike
    unfreeze_groups: int = 0  # the depth in so many groups: epoch 1 trains the top one, epoch 2 two …; 0: all at once
    epochs: int = 2  # how often all training rows are seen; 3 to 5 for a few hundred rows, 1 for very many
    max_updates: int | None = None  # ends training early, to try something or to keep to a time; null: all epochs
    update_tokens: int = 4096  # tokens that are learned from at once, before shared prefixes are stored once
    # tokens in memory at once, which change memory and never the result; auto picks what fits, up to 2048
    micro_tokens: int | Literal["auto"] = "auto"
    # decoder layers run again in the backward: a third more time for much less memory; auto: where it fits only so
    checkpointing: Literal["auto", "on", "off"] = "auto"
    # of several processes: each holds all weights (ddp), or trains a part of each tensor (fsdp), which takes less
    # memory and sends more; auto: fsdp where a run fits only so
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    every_checkpoint: int = 50  # updates between two saved states, from which --resume goes on
    on_nan: Literal["abort", "skip", "rollback"] = "abort"  # a loss that is no number: end, leave out, or go back
    # all that a run will do, tried once before it begins: what would fail late fails early; auto: where that takes at
    # most a tenth of the run
    rehearsal: bool | Literal["auto"] = "auto"
    every_dev: int | None = None  # updates between two losses on dev; null: at the start and at the end
    watch: int = 3  # prompts of dev that are answered while training, to see it learn; 0: none
    watch_prompts: tuple[str, ...] = ()  # prompts of your own to watch, beside those
    every_watch: int | None = None  # updates between these answers; null: at the start, half way and at the end
    compile: bool = False  # layers through torch.compile and a C++ compiler: worth its first minute on long runs

    @property
    def micro(self) -> int:
        """`micro_tokens` as a number, also where no run has picked one."""
        return MICRO_TOKENS if self.micro_tokens == "auto" else self.micro_tokens


@dataclass(frozen=True, slots=True)
class Gates:
    """What a run must show before it may ship; a demand that is not met ends the command with exit code 3."""

    decision: Literal["better", "not worse"] | None = None  # the verdict; not worse lets "no relevant difference" pass
    # least that the lower end of the effect's interval may be, in the metric's unit; with several metrics by name
    effect: float | dict[str, float] | None = None
    guards: Literal["all kept", "none lost"] | None = None  # none lost lets probes pass whose answer is not known
    calibration: float | None = None  # labels: highest expected calibration error on the held-out cases, 0 to 1
    stopped: float | None = None  # texts: least share of the answers that end by themselves, 0 to 1
    latency_s: float | None = None  # most seconds, in the median, for an answer asked alone on this machine


@dataclass(frozen=True, slots=True)
class Recipe:
    model: str = "smollm2-135m-instruct"  # the base: a name of `tunesmith models list`, a folder, or a hub name
    parent: Parent = field(default_factory=Parent)  # the finished run that this one goes on from, with new data
    data: Data = field(default_factory=Data)  # what is learned from, and what is held out
    task: Task = field(default_factory=Task)  # what the model is for, and how that is measured
    adapt: Adapt = field(default_factory=Adapt)  # which weights train
    train: Train = field(default_factory=Train)  # how they train
    objective: Goal = field(default_factory=Goal)  # what they are taught, beside the plain loss over reply tokens
    regularise: Regularise = field(default_factory=Regularise)  # against over-fitting and forgetting
    evals: Evals = field(default_factory=Evals)  # how base and tuned are compared
    # what sampled replies are worth: a list of parts, each with its kind, which are weighed and added up
    reward: tuple[dict[str, Any], ...] = ()
    environment: Environment = field(default_factory=Environment)  # what answers a reply, in episodes of several
    sweep: Sweep = field(default_factory=Sweep)  # how `tunesmith sweep` looks for better settings, on dev alone
    gates: Gates = field(default_factory=Gates)  # what must hold before it may ship, else exit code 3
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # number format; auto: what this machine is good at
    seed: int = 0  # of split, order and start; another one is another run of the same recipe
    export: tuple[Literal["adapter", "merged"], ...] = ("adapter", "merged")  # what is left behind to use elsewhere
    # where the curves go beside metrics.jsonl; each needs its extra: pip install 'tunesmith[wandb]'
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    # country of the electricity (three letters: DEU, USA …), to count energy and CO2e; pip install 'tunesmith[energy]'
    energy: str | None = None


class Loader(yaml.SafeLoader):
    """Only true and false are booleans, as in YAML 1.2: `off` is a choice of a recipe, and `no` may be a label."""


BOOLEAN = "tag:yaml.org,2002:bool"
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != BOOLEAN]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(BOOLEAN, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))

ADAPTER = TypeAdapter(Recipe)
PLAIN = {  # of pydantic's types of errors -> what was wanted
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "float_type": "a number", "string_type": "a text", "tuple_type": "a list",
    "bool_parsing": "true or false", "bool_type": "true or false",
}  # fmt: skip
DATA_FILES = tuple(ending for ending in (*FORMATS, *SUFFIXES) if ending != ".json")  # no recipe is called so
TEXTS = ("data.columns.prompt", "data.columns.reply", "data.reading.separator")  # as written where --set says them


def parts_of(kind: Any) -> dict[str, Any]:
    """Field name -> type of a dataclass, its annotations resolved."""
    return typing.get_type_hints(kind)


def as_dataclass(kind: Any) -> type | None:
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def listed_in(kind: Any) -> type | None:
    """The dataclass that it is a list of."""
    return as_dataclass(typing.get_args(kind)[0]) if typing.get_origin(kind) is tuple else None


def known_keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key of a recipe."""
    keys = []
    for name, inner in parts_of(kind).items():
        part = as_dataclass(inner)
        keys += known_keys(part, f"{prefix}{name}.") if part else [f"{prefix}{name}"]
    return keys


def refuse_unknown(settings: Any, kind: type = Recipe, prefix: str = "") -> None:
    """Raise RecipeError at the first key that no recipe has, naming the nearest that one has."""
    if not isinstance(settings, dict):
        shown = repr(settings) if len(repr(settings)) < 80 else f"{repr(settings)[:80]} …"
        raise RecipeError(f"{prefix.rstrip('.') or 'the recipe'} is {shown}; wanted keys and values")
    hints = parts_of(kind)
    for name, value in settings.items():
        if name not in hints:
            raise RecipeError(f"unknown key {prefix}{name}: {meant(str(name), list(hints), prefix)}")
        part = as_dataclass(hints[name])
        if part and value is not None:
            refuse_unknown(value, part, f"{prefix}{name}.")
        if each := listed_in(hints[name]):
            for number, one in enumerate([value] if isinstance(value, dict) else value or ()):
                refuse_unknown(one, each, f"{prefix}{name}[{number}].")


def meant(name: str, known: list[str], prefix: str) -> str:
    """The hint for a key that no recipe has here: the same name elsewhere, another tool's spelling, the nearest."""
    hint = elsewhere(name)
    if hint:
        return hint
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"


def elsewhere(name: str) -> str | None:
    """The same name in another place of the recipe, or what another tool's name is here."""
    everywhere = [k for k in known_keys() if k.rsplit(".", 1)[-1] == name]
    return f"did you mean {everywhere[0]}?" if everywhere else spelled_elsewhere(name)


def parse(settings: dict[str, Any]) -> Recipe:
    """A recipe from plain keys and values. Raises RecipeError naming the key, what was found and what was wanted."""
    refuse_unknown(settings)
    try:
        recipe = ADAPTER.validate_python(tuples(settings, Recipe))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(p) for p in first["loc"] if not isinstance(p, int) and p not in ("float", "literal['auto']")
        )
        said = PLAIN.get(first["type"]) or first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if where == "export":
            said += "; `tunesmith export RUN --to …` makes others of a finished run"
        near = did_you_mean(str(first["input"]), re.findall(r"'([^']+)'", first["msg"]))
        raise RecipeError(f"{where} is {first['input']!r}; wanted {said}.{near}") from error
    check(recipe)
    mixture.check(recipe.data.sources, recipe.data.mixing, recipe.data.train)
    return recipe


def tuples(settings: Any, kind: type) -> Any:
    """One string, or one group of keys, where a list is wanted is a list of one."""
    out = {}
    for name, value in settings.items():
        hint = parts_of(kind)[name]
        part = as_dataclass(hint)
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        wants_tuple = any(typing.get_origin(o) is tuple for o in options)
        out[name] = (
            tuples(value, part)
            if part and value is not None
            else (value,)
            if wants_tuple and isinstance(value, (str, dict))
            else value
        )
        if (each := listed_in(hint)) and isinstance(out[name], (list, tuple)):
            out[name] = tuple(tuples(one, each) for one in out[name])
        if part and value is None:
            del out[name]
    return out


def check(recipe: Recipe) -> None:
    """What can be said to be wrong without a model or data."""
    t, d, a, e = recipe.train, recipe.data, recipe.adapt, recipe.evals
    above_0 = {
        "train.epochs": t.epochs, "train.update_tokens": t.update_tokens, "train.micro_tokens": t.micro,
        "train.every_checkpoint": t.every_checkpoint, "data.max_tokens": d.max_tokens, "adapt.rank": a.rank,
        "adapt.last_k": a.last_k, "evals.max_cases": e.max_cases, "evals.max_dev_cases": e.max_dev_cases,
        "evals.rows": e.rows, "evals.budget_s": e.budget_s, "evals.guard_budget_s": e.guard_budget_s,
        "evals.explain_budget_s": e.explain_budget_s, "train.by_depth": t.by_depth,
        "train.lr": 1 if t.lr == "auto" else t.lr,
        "adapt.alpha": a.alpha, "train.max_updates": 1 if t.max_updates is None else t.max_updates,
        "evals.code.k": e.code.k, "evals.code.timeout_s": e.code.timeout_s, "evals.code.memory_mib": e.code.memory_mib,
        "evals.lm_eval_items": e.lm_eval_items,
        "evals.judge.max_cases": e.judge.max_cases, "evals.judge.budget_s": e.judge.budget_s,
        "evals.max_new_tokens": 1 if e.max_new_tokens is None else e.max_new_tokens,
    }  # fmt: skip
    cadences = {
        "train.every_watch": t.every_watch, "train.every_dev": t.every_dev, "adapt.context.tokens": a.context.tokens,
        "train.early_stop.every": t.early_stop.every, "objective.temperature": recipe.objective.temperature,
    }  # fmt: skip
    above_0 |= {key: value for key, value in cadences.items() if value is not None}
    off_at_0 = {
        "train.early_stop.patience": t.early_stop.patience, "train.unfreeze_groups": t.unfreeze_groups,
        "train.average.last": t.average.last,
    }  # fmt: skip
    check_strengths(recipe.regularise, recipe.objective, off_at_0)
    check_sweep(recipe.sweep)
    kinds.read(recipe.reward)
    environment.check(recipe.environment, has_reward=bool(recipe.reward))
    check_bits(a)
    if t.watch < 0:
        raise RecipeError(f"train.watch is {t.watch}; wanted how many prompts to watch, or 0 for none")
    if e.explain_cases < 0:
        raise RecipeError(f"evals.explain_cases is {e.explain_cases}; wanted how many cases to explain, or 0 for none")
    for key, value in above_0.items():
        if not value > 0:
            raise RecipeError(f"{key} is {value}; wanted a number above 0")
    fractions = {
        "data.dev_frac": d.dev_frac, "data.test_frac": d.test_frac, "adapt.dropout": a.dropout,
        "train.schedule.decay_frac": t.schedule.decay_frac, "train.schedule.warmup_frac": t.schedule.warmup_frac,
        "train.schedule.end_frac": t.schedule.end_frac, "data.replay.share": d.replay.share,
        "parent.replay": recipe.parent.replay, "train.average.ema": t.average.ema,
        "train.average.base_share": 0.0 if t.average.base_share == "auto" else t.average.base_share,
    }  # fmt: skip
    for key, value in fractions.items():
        if not 0 <= value < 1:
            raise RecipeError(f"{key} is {value}; wanted a fraction from 0 up to (not including) 1")
    named = recipe.task.metric
    if named is not None and (not named or len(set(named)) < len(named)):
        raise RecipeError(f"task.metric is {list(named)}; wanted one metric or more, each once")
    if not 0 < e.alpha < 0.5:
        raise RecipeError(f"evals.alpha is {e.alpha}; wanted a level between 0 and 0.5 (0.05 is usual)")
    if e.code.tries < e.code.k:
        raise RecipeError(f"evals.code.tries is {e.code.tries}; pass@{e.code.k} needs {e.code.k} or more")
    if e.code.temperature < 0:
        raise RecipeError(f"evals.code.temperature is {e.code.temperature}; wanted 0 or more")
    if (e.judge.model == "") != (e.judge.endpoint is None):
        raise RecipeError("evals.judge wants both endpoint (an address up to and with /v1) and model, or neither")
    if not 0 < e.sure_accuracy <= 1:
        raise RecipeError(f"evals.sure_accuracy is {e.sure_accuracy}; wanted a share above 0 and up to 1 (0.9: usual)")


def read(path: Path | None, overrides: dict[str, Any]) -> tuple[Recipe, str]:
    """(recipe, its text as it will be kept) from a YAML file, or from nothing, with dotted overrides on top."""
    settings: Any = {}
    if path is not None:
        if path.is_dir():
            raise RecipeError(
                f"recipe {path} is a folder; wanted a YAML file. To go on with a run: --resume --out {path}"
            )
        if not path.is_file():
            raise RecipeError(f"recipe {path} is not there; `tunesmith run --data FILE` works without one")
        if path.suffix.lower() in DATA_FILES:
            raise RecipeError(f"{path} looks like data, and a recipe stands here; data is said so: --data {path}")
        try:
            settings = load_yaml(path.read_text(encoding="utf-8"), Loader) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} is not YAML: {where_of(error)}") from error
    for key, value in overrides.items():
        place(settings, key, value)
    if path is not None:
        beside(settings, path.parent)
    refuse_secrets(settings, "")
    return parse(settings), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def where_of(error: Exception) -> str:
    """What is wrong with a text of YAML, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]


def place(settings: Any, dotted: str, value: Any) -> None:
    """Set a.b.c in nested dicts."""
    *parents, last = dotted.split(".")
    for name in parents:
        if isinstance(settings, dict) and settings.get(name) is None:  # a group of which only comments are there
            settings[name] = {}
        settings = settings[name] if isinstance(settings, dict) else None
        if not isinstance(settings, dict):
            raise RecipeError(f"cannot set {dotted}: {name} is a value, not a group of keys")
    settings[last] = value


def override(text: str) -> tuple[str, Any]:
    """`a.b=c` from the command line; c is read as YAML, so that 3, null and [a, b] mean what they say."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: wanted key=value, such as --set train.epochs=3")
    if key in TEXTS and not value.lstrip().startswith(("[", '"', "'")) and value != "null":
        return key, value.replace("\\n", "\n")  # a template has braces and colons, which YAML would take for its own
    try:
        return key, load_yaml(value, Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: {value!r} is not a YAML value") from error
