"""How a run's processes share the work: each with all weights (DDP), or each with a part of them (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tunesmith.build import Compute, Material
from tunesmith.errors import PlanError
from tunesmith.method import objective_of, regularisers_of
from tunesmith.models.adapters import trained_weights
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe

Way = Literal["auto", "ddp", "fsdp"]


def ways(recipe: Recipe, base: Base, made: Material, where: Compute, kept: Mapping[str, Any] | None) -> list[Way]:
    """Those that may be taken, in their order; one process asks nobody. `kept`: what the lock says was taken. PlanError
    where FSDP is asked for and cannot be."""
    asked: Way = recipe.train.parallel
    if where.processes == 1:
        return [asked]
    if kept is not None and kept["parallel"] != "auto":
        asked = kept["parallel"]
    if asked == "ddp":
        return ["ddp"]
    reason = against(recipe, base, made)
    if reason and asked == "fsdp":
        raise PlanError(f"train.parallel is fsdp, and {reason}. Say train.parallel: ddp, or leave that out")
    found: list[Way] = ["ddp", "fsdp"] if asked == "auto" else ["fsdp"]
    return [way for way in found if not reason or way == "ddp"]


def against(recipe: Recipe, base: Base, made: Material) -> str:
    """Why the weights of this run cannot be spread; "" where they can."""
    r, train, adapt = recipe.regularise, recipe.train, recipe.adapt
    objective = objective_of(recipe, made.kind, made.split.train)
    needs = objective.needs.union(*(term.needs for term in regularisers_of(recipe, 1, {})))
    reasons = {
        "adapt.base_bits holds the base in integers, which it does not cut": adapt.base_bits,
        f"the layers of peft's {adapt.peft or adapt.method} were not tried with it": adapt.is_pefts,
        "train.compile compiles layers whose weights it would exchange": train.compile,
        "train.unfreeze_groups changes what trains, which it notes once": train.unfreeze_groups,
        "regularise.mixout, l2sp and ewc look at whole matrices": r.mixout or r.l2sp or r.ewc,
        "train.average keeps a mean of whole tensors": train.average.ema or train.average.last,
        "a frozen model that is asked in each update (regularise.kl, objective.distil) would stand whole in each "
        "process": needs & {"reference", "teacher"},
        f"the {base.layout} layout was not tried with it": base.layout != "forest",
        "it takes no tensor without rows": any(not p.dim() for p in base.model.parameters()),
        "what trains has several number formats, of which it sums one": len(formats(recipe, base)) > 1,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


def formats(recipe: Recipe, base: Base) -> set[Any]:
    """Of what trains. Adapters have the model's."""
    if recipe.adapt.is_adapter:
        return {base.model.dtype}
    return {p.dtype for _, p in trained_weights(base.model, recipe.adapt)}


def row(recipe: Recipe, asked: Way, where: Compute) -> list[tuple[str, object, str]]:
    """Of the plan. `recipe`: with nothing left open; `asked`: as it was written."""
    if where.processes == 1:
        return []
    way = recipe.train.parallel
    part = f"each trains 1/{where.processes} of every tensor, and the first holds all of them too, to be asked"
    what = part if way == "fsdp" else "each holds all weights"
    why = "said in the recipe" if asked != "auto" else "fits so" if way == "ddp" else "would not fit with all in each"
    return [("train.parallel", way, f"{why}: {what}")]
