"""A model that is ready to answer: a run's base and tuned model side by side, or any model alone.

What chat, predict, serve and export have in common: prompts are rendered as in training, stops are those of training.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.build import Compute, Material, compute, load_base
from tunesmith.classes import renderer_of
from tunesmith.data.columns import Columns
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.engine.precision import is_fast_in_bf16
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Spec
from tunesmith.errors import InputError, did_you_mean
from tunesmith.evals.score import label_logps
from tunesmith.evals.tasks import label_record
from tunesmith.files import read_json
from tunesmith.generate.limits import Limits
from tunesmith.generate.stream import Ask, Piece
from tunesmith.generate.structured import Form, form
from tunesmith.models.artifact import read_weights
from tunesmith.models.catalogue import locate
from tunesmith.models.class_head import gives_several, labels_of
from tunesmith.models.load import Base, load
from tunesmith.probing import NAME as HEAD
from tunesmith.probing import read_head
from tunesmith.recipe import Recipe, parse, read
from tunesmith.types import Completion, Message

TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class Served:
    """What of a run's data has to be known where the model answers: serving.json."""

    task: str
    instruction: str
    labels: tuple[str, ...]
    max_new_tokens: int
    columns: Columns  # as the training file was understood

    @classmethod
    def of(cls, made: Material) -> Served:
        return cls(made.task, made.instruction, made.labels, made.max_new_tokens, made.columns)

    @classmethod
    def read(cls, folder: Path) -> Served:
        path = folder / "serving.json"
        kept_recipe(folder)
        if not path.is_file():
            raise InputError(
                f"{folder} holds no run that can answer (no serving.json): it was not run to its end, or by an older "
                f"tunesmith. `tunesmith run --resume --out {folder}` goes on with it"
            )
        kept: dict[str, Any] = read_json(path)
        columns: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["columns"].items()}
        return cls(**{**kept, "labels": tuple(kept["labels"]), "columns": Columns(**columns)})

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Opened:
    """`tuned` is None where a model was opened that no run tuned."""

    name: str
    recipe: Recipe
    session: Session
    renderer: Renderer
    served: Served
    tuned: Snapshot | None

    def who(self, name: str) -> Snapshot | None:
        """The snapshot behind "tuned", None behind "base"."""
        if name not in ("base", TUNED) or (name == TUNED and self.tuned is None):
            there = "base, tuned" if self.tuned is not None else "base"
            raise InputError(f"{self.name} has no model {name!r}; there is: {there}")
        return self.tuned if name == TUNED else None

    def messages(self, turns: Sequence[Message]) -> tuple[Message, ...]:
        """The turns as the run's own prompts are: with its instruction, unless they bring a system message."""
        if not self.served.instruction or any(m.role in ("system", "developer") for m in turns):
            return tuple(turns)
        return (Message("system", self.served.instruction), *turns)

    def prompt(self, turns: Sequence[Message]) -> list[int]:
        """Token ids, up to where the model goes on. Raises InputError where the context has no room for an answer."""
        if self.session.base.scores:
            raise writes_none(self.name)
        tokens = self.renderer.prompt(self.messages(turns))
        context = self.session.base.context_tokens
        if context is not None and len(tokens) >= context:
            raise InputError(f"the prompt has {len(tokens)} tokens, the model's context is {context}: shorten it")
        return tokens

    def limits(self, **changes: Any) -> Limits:
        """Greedy, with the stops of training and the run's longest answer; `changes` are fields of Limits."""
        base = {"max_new_tokens": self.served.max_new_tokens, "stop_ids": self.renderer.stop_ids}
        return Limits(**{**base, **changes})

    def form(self, *, schema: Any = None, pattern: str = "") -> Form:
        """What answers have to be: of a JSON schema, or of a pattern. InputError where it cannot be had."""
        base = self.session.base
        if base.by_head:
            raise InputError(f"{self.name}: answers of a given form are for language models, and this has a class head")
        return form(base.tokenizer, self.renderer.stop_ids, schema=schema, pattern=pattern)

    def complete(
        self, who: str, prompts: Sequence[Sequence[Message]], limits: Limits | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:  # fmt: skip
        """One completion a prompt, in order; `progress` is told how many are done."""
        tokens = [self.prompt(p) for p in prompts]
        asked = limits or self.limits()
        return self.session.sample(self.who(who), tokens, asked, decode=self.renderer.text, progress=progress)

    def stream(
        self, who: str, turns: Sequence[Message], limits: Limits | None = None, ask: Ask | None = None
    ) -> Generator[Piece]:
        """The answer to one conversation while it is written, a piece a token, as far as the context has room."""
        tokens = self.prompt(turns)
        asked, context = limits or self.limits(), self.session.base.context_tokens
        if self.session.base.by_head:  # its answer comes whole
            asked = replace(asked, max_new_tokens=self.served.max_new_tokens)
        elif context is not None:
            asked = replace(asked, max_new_tokens=min(asked.max_new_tokens, context - len(tokens)))
        return self.session.stream(self.who(who), tokens, asked, ask or Ask(), self.renderer)

    @property
    def labels(self) -> tuple[str, ...]:
        """Those whose probability can be told; () where answers are texts."""
        return self.renderer.several or self.served.labels

    def label_logps(self, who: str, prompts: Sequence[Sequence[Message]]) -> np.ndarray:
        """[n, C] nats of each label (with its end of turn; of several, of its yes) behind each prompt, in the order of
        `labels`."""
        if not self.labels:
            raise InputError(f"{self.name} was not tuned on labels, so there is no probability of one")
        records = [label_record(self.renderer, str(i), self.messages(p), self.labels) for i, p in enumerate(prompts)]
        forests = pack(records, self.recipe.train.micro, self.session.base.rope)
        found = label_logps(forests, self.session.logprobs(self.who(who), forests), len(self.labels))
        return np.stack([found[str(i)] for i in range(len(prompts))])


def open_run(folder: Path, *, insist: bool = False) -> Opened:
    """A finished run. Another base than it was tuned on is refused unless the user insists."""
    served, recipe, weights = kept_run(folder)
    base = load_base(recipe, as_measured(recipe, folder))
    renderer = renderer_of(base, recipe, served.labels, served.task)
    if (folder / HEAD).is_file():
        read_head(base, folder / HEAD)
    session = Session(base)
    if recipe.adapt.method == "lora" and base.writes:
        session.create_from(TUNED, weights, insist=insist)
    else:
        session.create(TUNED, Spec(recipe.adapt, seed=recipe.seed))
        tenant = session.tenants[TUNED]
        tenant.start_from(read_weights(weights, list(tenant.masters), base.digest, insist=insist))
    return Opened(str(folder), recipe, session, renderer, served, session.publish(TUNED))


def as_measured(recipe: Recipe, folder: Path) -> Compute:
    """In the precision of the run: what was measured is what answers. Float32 where the recipe left that open, the run
    took bfloat16, and this machine is slow at it."""
    then = compute(recipe, read_json(folder / "lock.json"))
    is_slow = then.dtype == torch.bfloat16 and not is_fast_in_bf16(then.device)
    return compute(recipe) if is_slow and recipe.precision == "auto" else then


def kept_run(folder: Path) -> tuple[Served, Recipe, Path]:
    """What a finished run's folder holds, and where in it the tuned weights are."""
    served = Served.read(folder)
    recipe, _ = read(folder / "recipe.yaml", {})
    weights = folder / ("adapter" if recipe.adapt.is_adapter else "model")
    if not (weights / "tunesmith.json").is_file():
        raise InputError(f"{folder} has no tuned model yet: `tunesmith run --resume --out {folder}` goes on with it")
    return served, recipe, weights


def open_model(name: str) -> Opened:
    """Any model by name, folder or GGUF file, without an instruction, whatever its context."""
    recipe = parse({"model": name})
    where = compute(recipe)
    base = load(name, where.dtype, where.device)
    if base.by_head:
        served = classifying(base)
        renderer = renderer_of(base, recipe, served.labels, served.task)
        return Opened(name, recipe, Session(base), renderer, served, None)
    longest = min(recipe.data.max_tokens, base.context_tokens or recipe.data.max_tokens)
    renderer = Renderer(base.tokenizer, longest, recipe.data.too_long, base.layout)
    return Opened(name, recipe, Session(base), renderer, Served("chat", "", (), 512, Columns()), None)


def own_labels(base: Base) -> tuple[str, ...]:
    """Of a classifier's own head. InputError where it has none."""
    if base.fresh:
        raise InputError(
            f"{base.located.name} reads texts and has no class head, so there is nothing that it can be asked yet: "
            "`tunesmith run` tunes it on labels"
        )
    if base.model.config.num_labels == 1:
        raise writes_none(base.located.name)
    return labels_of(base.model)


def classifying(base: Base) -> Served:
    labels, several = own_labels(base), gives_several(base.model)
    return Served("multilabel" if several else "classify", "", labels, len(labels) if several else 1, Columns())


def open_any(name: str, *, insist: bool = False) -> Opened:
    """A run folder, else a model by name or folder."""
    check_any(name)
    if (Path(name) / "recipe.yaml").is_file():
        return open_run(Path(name), insist=insist)
    return open_model(name)


def check_any(name: str) -> None:
    """Refuse what `open_any` would refuse, before anything is loaded."""
    path = Path(name)
    if (path / "recipe.yaml").is_file():
        if kept_run(path)[0].task == "reward":
            raise writes_none(name)
        return
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(
            f"{name} holds neither a run (no recipe.yaml) nor a model (no config.json); `tunesmith runs` lists the runs"
        )
    if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():  # else a slip goes to the hub as owner/name
        raise no_run(path)
    locate(name)


def writes_none(name: str) -> InputError:
    return InputError(
        f"{name} is a reward model: it gives replies a score, and writes none. `tunesmith grade` scores files of them, "
        "and `tunesmith predict RUN IN OUT --best-of N --reward` picks among those of a run that writes"
    )


def kept_recipe(folder: Path) -> Path:
    """The recipe of the run in this folder. Raises InputError where there is none."""
    if not (folder / "recipe.yaml").is_file():
        raise no_run(folder)
    return folder / "recipe.yaml"


def no_run(folder: Path) -> InputError:
    """What was named holds no run; what is near it, where something is."""
    if folder.exists():
        return InputError(f"{folder} holds no run (no recipe.yaml); name the folder that `tunesmith run` wrote")
    beside = [str(p) for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
    return InputError(
        f"there is no folder {folder}; wanted the folder of a run. `tunesmith runs` lists those under runs/."
        f"{did_you_mean(str(folder), beside)}"
    )
