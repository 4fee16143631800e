"""What a recipe leaves open (`auto`) is picked to fit the free memory: micro-batch, checkpointing, precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from tunesmith import classes, method, parallel
from tunesmith.build import Compute, Material, feed_of, load_base
from tunesmith.data.records import sizes_of
from tunesmith.engine.memory import KEPT, RETURNED, Freed, held_gib
from tunesmith.errors import NoRoom
from tunesmith.footprint import Asking, Footprint, asking_bytes, footprint
from tunesmith.models.adapters import check_adapt
from tunesmith.models.here import MEMORY, memory_gib
from tunesmith.models.load import Base
from tunesmith.models.traced import Untraceable
from tunesmith.recipe import MICRO_TOKENS, Recipe
from tunesmith.roles import Foretold
from tunesmith.room import check_memory, need, num_trained, size
from tunesmith.unasked import suiting

LEAST_MICRO_TOKENS = 256
KEPT_COSTS = 4.5  # of a micro-batch's tensors: what freed memory takes where it is kept; measured 4.2 with 135M weights
# What lies free between tensors that live, where freed memory is kept, as a share of what comes and goes: of the first
# GiBs, and of each further one. Micro-batches of 0.3 to 0.6 GiB left 0.1 to 0.3, one of 1.2 left 0.3, and one of 1.6
# left 0.3 to 0.4: what grows with the tokens is mostly kept for the backward pass, and lies in order.
HOLES, FEW_GIB, FURTHER_HOLES = 0.5, 0.6, 0.2
MOST_OVER = 1.05  # times what the plan says, before what lies free is looked for and given back, which takes time
KEYS = ("micro_tokens", "checkpointing")
LOCKED = (*KEYS, "parallel")
Try = tuple[Recipe, Foretold, Footprint]
SAID = {
    "kept": "; freed memory is kept for speed, and may take {most_gib:.1f} GiB with that",
    "trimmed": "; freed memory is kept up to that, and training waits for its checkpoints",
    "returned": "; freed memory goes back to the system, which is half as fast, and training waits for its checkpoints",
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """`recipe` with nothing left open. Where memory is short, training waits while a checkpoint is written."""

    recipe: Recipe
    feed: Foretold
    footprint: Footprint | None  # None where the model cannot be traced
    freed: Freed
    num_trained: int  # weights; counted here, where no adapter is in the model
    rows: tuple[tuple[str, Any, str], ...]  # of the plan: key, value, why

    def anew_gib(self, stage: str) -> float:
        """Of memory that a stage needs and the process does not hold yet."""
        if self.footprint is None:
            return 0.0
        return max(0.0, self.footprint.there_gib + self.footprint.stages[stage] - held_gib())

    def facts(self) -> dict[str, Any] | None:
        """Of plan.json: GiB, of the whole process (on a GPU of torch) and by stage beside the loaded model."""
        if self.footprint is None:
            return None
        found = self.footprint
        return {"peak_gib": found.peak_gib, "there_gib": found.there_gib, "stages": found.stages,
                "freed": self.freed.word}  # fmt: skip


def fit_or_halve(
    recipe: Recipe, base: Base, made: Material, where: Compute, kept: Mapping[str, Any] | None = None,
    *, measures: bool = True,
) -> tuple[Compute, Base, Fitted]:  # fmt: skip
    """`fit`, and where precision is open too, in bfloat16 if nothing fits in float32."""
    try:
        return where, base, fit(recipe, base, made, where, kept, measures=measures)
    except NoRoom:
        if kept is not None or recipe.precision != "auto" or where.dtype != torch.float32 or base.by_head:
            raise
    half = replace(where, dtype=torch.bfloat16, dtype_why="nothing fits in float32 in the memory that is free")
    base = load_base(recipe, half, learns=True)
    return half, base, fit(recipe, base, made, half, measures=measures)


def fit(
    recipe: Recipe, base: Base, made: Material, where: Compute, kept: Mapping[str, Any] | None = None,
    *, measures: bool = True,
) -> Fitted:  # fmt: skip
    """`kept`: what the lock of a run says was picked; it is taken as it is. `measures`: whether the model is
    asked anything beside training and export; else those stages are not traced. NoRoom where nothing fits."""
    recipe = classes.able(suiting(recipe, made.task), base)
    check_adapt(recipe.adapt, base.model, base.probe)
    is_labelled = bool(made.labels) and not made.renderer.several
    method.refuse(recipe, base, is_labelled=is_labelled, has_dev=bool(made.dev.records))
    free = free_each(where)
    if base.layout != "forest":
        return untraced(recipe, base, made, where, kept, f"the {base.layout} layout is not traced")
    tried: list[Try] = []

    def fitted(tried: Sequence[Try], freed: Freed, found: Footprint) -> Fitted:
        candidate, feed, _ = tried[-1]
        rows = (
            *parallel.row(candidate, recipe.train.parallel, where),
            *words(recipe, tried, (freed, found), kept, where, free),
        )
        return Fitted(candidate, feed, found, freed, trained_in(recipe, base, made), rows)

    try:
        asking = asking_bytes(recipe, base, made) if measures else None
        for candidate in shared(recipe, base, made, where, kept):
            feed = feed_of(candidate, base, made)
            found = footprint(candidate, base, made, feed, asking, where.processes)
            tried.append((candidate, feed, found))
            freed, whole = handled(found, free, where)
            if whole.above_gib <= free and freed.keeps:
                return fitted(tried, freed, whole)
        for number, (_, _, found) in enumerate(tried, 1):  # which fits, and is slower than any above
            if found.above_gib <= free:
                return fitted(tried[:number], RETURNED, found)
        ways = would_fit(recipe, base, made, asking, free)
    except Untraceable as error:
        return untraced(recipe, base, made, where, kept, str(error))
    raise NoRoom(refusal(tried, free, where, ways))


def trained_in(recipe: Recipe, base: Base, made: Material) -> int:
    """Weights, those of a value head among them."""
    heads = method.heads_of(method.objective_of(recipe, made.kind, made.split.train))
    return num_trained(base.model, recipe.adapt, heads)


def would_fit(recipe: Recipe, base: Base, made: Material, asking: Asking | None, free: float) -> list[str]:
    """The nearest changes of the recipe that fit, each computed."""
    train = replace(recipe.train, micro_tokens="auto", checkpointing="auto")
    lora = replace(recipe.adapt, method="lora")
    without = f", without {', '.join(f'adapt.{key}' for key in lora.unread)}" if lora.unread else ""
    tuned = {"": recipe.adapt, "adapt.method=lora": lora}
    ways = []
    for said, adapt in tuned.items():
        if said and recipe.adapt.method == "lora":
            continue
        for candidate in candidates(replace(recipe, train=train, adapt=adapt), base, made, None):
            if footprint(candidate, base, made, feed_of(candidate, base, made), asking).above_gib <= free:
                changes = [said, *(f"train.{k}={getattr(candidate.train, k)}" for k in KEYS
                                   if getattr(candidate.train, k) != getattr(recipe.train, k))]  # fmt: skip
                ways.append(" ".join(f"--set {c}" for c in changes if c) + (without if said else "") + " would fit")
                break
    return ways


def free_each(where: Compute) -> float:
    """GiB, for each process where several share the machine's memory."""
    return memory_gib(where.device) / (where.beside if where.device == "cpu" else 1)


def most_tokens(recipe: Recipe, where: Compute) -> int:
    """Of a micro-batch that is picked: an update has at least two for each process, whose work is then about even."""
    if where.processes == 1:
        return MICRO_TOKENS
    return max(LEAST_MICRO_TOKENS, min(MICRO_TOKENS, recipe.train.update_tokens // (2 * where.processes)))


def shared(
    recipe: Recipe, base: Base, made: Material, where: Compute, kept: Mapping[str, Any] | None
) -> Iterator[Recipe]:
    """What may be picked for each way in which processes may share the work, the one that sends least first."""
    for way in parallel.ways(recipe, base, made, where, kept):
        asked = replace(recipe, train=replace(recipe.train, parallel=way))
        yield from candidates(asked, base, made, kept, most_tokens(recipe, where))


def candidates(
    recipe: Recipe, base: Base, made: Material, kept: Mapping[str, Any] | None, most: int = MICRO_TOKENS
) -> Iterator[Recipe]:
    """What may be picked, the fastest first: fewer tokens at once cost little, running layers again a third more."""
    train = recipe.train
    if kept is not None:
        yield replace(recipe, train=replace(train, **{key: kept[key] for key in KEYS}))
        return
    longest = int(sizes_of(made.train.records).tokens.max())
    most = most if train.micro_tokens == "auto" else train.micro_tokens
    sizes = [most]
    while train.micro_tokens == "auto" and sizes[-1] // 2 >= max(longest, LEAST_MICRO_TOKENS):
        sizes.append(sizes[-1] // 2)
    can_again = base.model.supports_gradient_checkpointing
    switches: list[Literal["auto", "on", "off"]] = [train.checkpointing]
    if train.checkpointing == "auto":
        switches = ["off", "on"] if can_again else ["off"]
    for switch in switches:
        for tokens in sizes:
            yield replace(recipe, train=replace(train, micro_tokens=tokens, checkpointing=switch))


def handled(found: Footprint, free: float, where: Compute) -> tuple[Freed, Footprint]:
    """What becomes of freed memory where this candidate runs, and the footprint with that. What is kept may or may not
    fit; what goes back takes `found`."""
    if where.device != "cpu":
        return KEPT, unhurried(found)
    holes = {name: holes_gib(found.passing.get(name, 0.0)) for name in found.stages}
    roomy = replace(found, stages={name: gib + holes[name] for name, gib in found.stages.items()})
    if kept_gib(unhurried(roomy)) <= free:
        return KEPT, unhurried(roomy)
    return Freed(most_gib=MOST_OVER * roomy.peak_gib), roomy


def holes_gib(passing: float) -> float:
    """Between the tensors of a stage, of which so many GiB come and go."""
    return HOLES * min(passing, FEW_GIB) + FURTHER_HOLES * max(0.0, passing - FEW_GIB)


def kept_gib(found: Footprint) -> float:
    """The most that a run was seen to take beside the loaded model where freed memory is kept without a bound."""
    more = (KEPT_COSTS - 1) * found.activations_gib - holes_gib(found.passing.get("train", 0.0))
    return found.above_gib + max(0.0, more)


def unhurried(found: Footprint) -> Footprint:
    """Where training goes on while a checkpoint is written."""
    return replace(found, stages={**found.stages, "train": found.stages["train"] + found.copied_gib})


def untraced(
    recipe: Recipe, base: Base, made: Material, where: Compute, kept: Mapping[str, Any] | None, why: str
) -> Fitted:
    """Nothing is known but the least that it takes."""
    first = next(shared(recipe, base, made, where, kept))
    first = replace(first, train=replace(first.train, checkpointing="off" if kept is None and
        first.train.checkpointing == "auto" else first.train.checkpointing))  # fmt: skip
    feed = feed_of(first, base, made)
    shape = feed.shape()
    tokens = first.train.micro
    wanted = need(base.model, first.adapt, min(tokens, shape["update_tokens_max"]))
    said = check_memory(wanted, where.device, free_each(where), tokens, shape["longest_tokens"])
    return Fitted(first, feed, None, KEPT, trained_in(recipe, base, made), (
        *parallel.row(first, recipe.train.parallel, where),
        ("memory", f"{wanted.memory_gib:.2g} GiB", f"{said}; not predicted: {why}"),
        ("train.micro_tokens", tokens, "said in the recipe" if recipe.train.micro_tokens != "auto" else "the default"),
        ("train.checkpointing", first.train.checkpointing, "said in the recipe or not predicted"),
    ))  # fmt: skip


def words(
    recipe: Recipe, tried: Sequence[Try], done: tuple[Freed, Footprint], kept: Mapping[str, Any] | None, where: Compute,
    free: float,
) -> tuple[tuple[str, Any, str], ...]:  # fmt: skip
    chosen, (freed, found) = tried[-1][0], done
    larger = f"; {len(tried) - 1} larger or faster choices did not fit" if len(tried) > 1 else ""
    picked = "kept from the start of this run" if kept is not None else f"picked: {size(free)} are free{larger}"
    whom = "torch allocates" if where.device == "cuda" else "the whole process"
    how = SAID[freed.word].format(most_gib=found.there_gib + kept_gib(found)) if where.device == "cpu" else ""
    each = ", ".join(f"{name} {size(gib)}" for name, gib in found.stages.items())
    return (
        ("peak memory", f"{found.peak_gib:.2f} GiB", f"{whom}, in the stage {found.largest}{how}"),
        ("memory", f"{found.above_gib:.2f} GiB", f"beside the loaded model: {each}; {size(free)} are free"),
        ("train.micro_tokens", chosen.train.micro, said(recipe.train.micro_tokens, picked)),
        ("train.checkpointing", chosen.train.checkpointing, said(recipe.train.checkpointing, picked)),
    )  # fmt: skip


def said(value: Any, otherwise: str) -> str:
    return otherwise if value == "auto" else "said in the recipe"


def refusal(tried: list[Try], free: float, where: Compute, ways: list[str]) -> str:
    """What was found, and the nearest change that would fit."""
    least, _, found = min(tried, key=lambda one: one[2].above_gib)
    stage, ways = found.largest, list(ways)
    if stage in ("baseline", "evaluate", "robustness"):
        ways.append(f"--set evals.rows={max(1, least.evals.rows // 4)} writes fewer answers side by side")
    if stage == "export" and "merged" in least.export and least.adapt.method == "lora":
        ways.append("--set export=[adapter] leaves the merged model out")
    leaves_out = {"explain": "evals.explain_cases=0", "guards": "evals.guards=off"}
    if stage in leaves_out:
        ways.append(f"--set {leaves_out[stage]} leaves that stage out")
    if where.beside > 1 and where.device == "cpu":
        ways.append("fewer processes: they share the memory of this machine")
    if where.dtype == torch.float32:
        ways.append("--set precision=bfloat16 takes about half for weights and layers")
    ways.append("take a smaller model (`tunesmith models` shows which fit)")
    return (
        f"too little memory: beside the loaded model the run takes at least {size(found.above_gib)} (stage {stage}, "
        f"train.micro_tokens {least.train.micro}, checkpointing {least.train.checkpointing}), and {size(free)} are "
        f"free on {where.device}. {'; or '.join(ways)}. If more is free than it seems: {MEMORY}=GIB says how much"
    )
