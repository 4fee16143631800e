"""The finished run that another one goes on from (`--from`): what is kept of it, and whether it is what it was.

A run that goes on begins with the weights of its parent as they were exported, and with its ledger. The base stays
that of the whole lineage: the parent's weights are a change of it (an adapter, or weights of the model itself), and so
are the child's, which answer to the same base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from torch import Tensor

from tunesmith import lineage
from tunesmith.data.located import find_splits
from tunesmith.data.split import Ledger
from tunesmith.errors import DataError, InputError, ModelError, PlanError, RecipeError
from tunesmith.files import read_json, sha256_file
from tunesmith.models.adapters import Adapt
from tunesmith.models.artifact import read_weights
from tunesmith.models.class_head import KEPT as CLASS_HEAD
from tunesmith.models.load import Base, weights_digest
from tunesmith.models.rows import LAYOUT
from tunesmith.plain_yaml import load_yaml
from tunesmith.recipe import Loader, Recipe, known_keys, read
from tunesmith.replay import Replayed
from tunesmith.sealed import read_seal

ENDED = "verdict.json"
CASES = "scores/cases.parquet"
PLAN = "plan.json"
NEEDED = ("recipe.yaml", "lock.json", PLAN, ENDED, "ledger.json", "serving.json", CASES, "scores/base.json",
          "scores/tuned.json")  # fmt: skip
# Of its settings, those that are about its own data, its own parent, and how they were looked for
NOT_KEPT = (
    *("data.train", "data.sources", "data.mixing.cap", "data.mixing.temperature", "data.mixing.rows"),
    *("data.dev", "data.test", "data.ood", "parent.run", "parent.replay"),
)
LISTED = 12  # settings that a row of the plan names


@dataclass(frozen=True, slots=True)
class Before:
    """The parent, as its child needs it. Nothing of it is written to."""

    folder: Path
    id: str
    recipe: Recipe
    settings: Mapping[str, Any]  # dotted key -> what its recipe says
    lock: Mapping[str, Any]
    base: str  # digest of the base that its weights are a change of
    tuned: str  # digest of its weights, as its verdict says it
    task: str
    labels: tuple[str, ...]
    instruction: str
    max_new_tokens: int
    by_head: bool  # it gives labels by a class head

    @property
    def weights(self) -> Path:
        return self.folder / ("adapter" if self.recipe.adapt.is_adapter else "model")

    @property
    def merged(self) -> Path:
        """Its tuned model as one folder."""
        return self.folder / ("merged" if self.recipe.adapt.is_adapter else "model")

    @property
    def ledger(self) -> Ledger:
        return Ledger.load(self.folder / "ledger.json")

    @property
    def num_cases(self) -> int:
        """Held-out cases of its own and of the runs before it."""
        return int(pq.read_metadata(self.folder / CASES).num_rows) + len(self.read("scores/old_cases.json") or ())

    def read(self, name: str) -> Any:
        path = self.folder / name
        return read_json(path) if path.is_file() else None

    def values(self, names: Sequence[str], base_digest: str) -> dict[str, Tensor]:
        """float32 values of these tensors of a tenant, as the run left them."""
        return read_weights(self.weights, names, base_digest)

    def facts(self) -> dict[str, str]:
        """Of lock.json: what has to be the same for a child to be the same."""
        files = {name: sha256_file(self.folder / f"{name}.json") for name in ("lock", "ledger")}
        path = self.folder / CLASS_HEAD
        head = {"head": sha256_file(path)} if path.is_file() else {}
        return {"run": self.id, "weights": self.tuned, **files, **head}


def opened(folder: Path) -> Before:
    """Raises InputError where there is no finished run that can be gone on from."""
    if not (folder / "recipe.yaml").is_file():
        raise InputError(
            f"parent.run is {folder}, and there is no run in it (no recipe.yaml). `tunesmith runs` lists those "
            "that are here; where it was moved, say so: --from FOLDER, or with --resume --set parent.run=FOLDER"
        )
    if not (folder / ENDED).is_file():
        raise InputError(
            f"{folder} was not run to its end (no {ENDED}), so there is nothing to go on from yet: `tunesmith run "
            f"--resume --out {folder}` ends it"
        )
    who, lacks = lineage.told(folder)["id"], [name for name in NEEDED if not (folder / name).is_file()]
    if lacks or not who:
        raise older(folder, f"lacks {', '.join(lacks or [lineage.NAME])}")
    refuse_edited(folder)
    try:
        recipe, text = read(folder / "recipe.yaml", {})
        lock, plan, verdict, served = (read_json(folder / n) for n in ("lock.json", PLAN, ENDED, "serving.json"))
        return Before(
            folder=folder, id=who, recipe=recipe, settings=told_keys(text), lock=lock,
            base=lock["model"]["digest"], tuned=verdict["digests"]["tuned"], task=served["task"],
            labels=tuple(served["labels"]), instruction=served["instruction"],
            max_new_tokens=int(served["max_new_tokens"]), by_head=plan["layout"]["layout"] == LAYOUT,
        )  # fmt: skip
    except RecipeError as error:
        raise older(folder, f"has a recipe that this tunesmith does not read ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise older(folder, f"has files of another shape than this tunesmith writes ({error})") from error


def older(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder} {what}: it was made by another version of tunesmith, or not copied whole. Copy it again, or make it "
        f"again with this version: tunesmith run {folder}/recipe.yaml --out NEW, and go on from that"
    )


def refuse_edited(folder: Path) -> None:
    """By the seal of the run: what its child is compared with has to be what was measured."""
    sealed = (read_seal(folder) or {}).get("files")
    if sealed is None:
        raise older(folder, "has no seal.json")
    there = [*NEEDED, *[CLASS_HEAD] * (CLASS_HEAD in sealed)]
    other = [n for n in there if not (folder / n).is_file() or sha256_file(folder / n) != sealed.get(n)]
    if other:
        raise DataError(
            f"{folder}: {', '.join(other)} changed since the run ended, and its child would be compared with what "
            f"nobody measured. Restore it from a copy; `tunesmith verify {folder}` looks at the rest"
        )


def before_of(recipe: Recipe) -> Before | None:
    """None where the recipe goes on from no run. ModelError where its weights are not those that were measured."""
    if recipe.parent.run is None:
        if recipe.parent.replay:
            raise PlanError(
                f"parent.replay is {recipe.parent.replay:g}, and there is no parent: say --from RUN, or leave it out "
                "(data.replay.files names rows to repeat without one)"
            )
        return None
    before = opened(Path(recipe.parent.run))
    if not (before.weights / "tunesmith.json").is_file():
        raise older(before.folder, f"has no tuned weights in {before.weights.name}/")
    found = weights_digest(before.weights)
    if found != before.tuned:
        raise ModelError(
            f"{before.weights} has the digest {found[:12]}, and the verdict of {before.folder} is about "
            f"{before.tuned[:12]}: its weights changed since. Restore them from a copy"
        )
    return before


def suited(recipe: Recipe, base: Base) -> Before | None:
    """The same; refused where its weights are no beginning for this recipe on this base."""
    before = before_of(recipe)
    if before is not None:
        refuse_unlike(before, recipe, base)
    return before


def refuse_unlike(before: Before, recipe: Recipe, base: Base) -> None:
    """Where the parent's weights are no beginning for this recipe: another base, other tensors."""
    if base.digest != before.base:
        raise ModelError(
            f"model {recipe.model} has the digest {base.digest[:12]}, and {before.folder} was tuned on a base with "
            f"{before.base[:12]} ({before.recipe.model}). What goes on keeps the base of its lineage: leave model "
            "out, or start on the new base without --from"
        )
    if base.by_head != before.by_head:
        raise PlanError(
            f"task.by is {recipe.task.by} and task.name {recipe.task.name}, and in {before.folder} they were "
            f"{before.recipe.task.by} and {before.task}; going on means the same head. Leave both out; or begin with "
            f"its tuned model: --model {before.merged} without --from"
        )
    mine, theirs = (trains(r.adapt) for r in (recipe, before.recipe))
    if mine != theirs:
        raise PlanError(
            f"{before.folder} trained {before.recipe.adapt.method} with other settings than this recipe's adapt "
            f"({differing(recipe, before)}), and going on means the same weights. Leave adapt out; or begin with its "
            f"tuned model as a base of its own: --model {before.merged} without --from"
        )


def trains(adapt: Adapt) -> str:
    """Of two recipes the same where they train the same tensors in the same place; dropout may differ."""
    return replace(adapt, dropout=0.0).key()


def differing(recipe: Recipe, before: Before) -> str:
    keys = [key for key in known_keys() if key.startswith("adapt.") and key != "adapt.dropout"]
    pairs = [(key, value_of(before.recipe, key), value_of(recipe, key)) for key in keys]
    return ", ".join(f"{key} was {then} and is {now}" for key, then, now in pairs if then != now)


def refuse_other_task(before: Before, task: str, *, is_labelled: bool) -> None:
    """A run keeps its task; for labels, new ones may come."""
    if task != before.task:
        raise PlanError(
            f"task.name is {task}, and {before.folder} was tuned for {before.task}: the two cannot be compared. Leave "
            f"task out, or tune for the new task on its tuned model: --model {before.merged} without --from"
        )
    if before.labels and not is_labelled:
        raise DataError(
            f"{before.folder} chooses among labels ({', '.join(before.labels[:5])}), and the new data has none: "
            f"name their column, --set data.columns.label=NAME, or tune for another task without --from"
        )


def value_of(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for name in key.split("."):
        found = getattr(found, name)
    return found


def told_keys(text: str) -> dict[str, Any]:
    """Dotted key -> what a recipe's text says, for the keys that it names."""
    settings, found = load_yaml(text, Loader) or {}, {}
    for key in known_keys():
        *groups, last = key.split(".")
        here: Any = settings
        for name in groups:
            here = here.get(name) if isinstance(here, dict) else None
        if isinstance(here, dict) and last in here:
            found[key] = here[last]
    return found


def kept_settings(before: Before) -> dict[str, Any]:
    """What holds of the parent where its child says nothing: its recipe, and of its lock the precision."""
    mine = {k: v for k, v in before.settings.items() if k not in NOT_KEPT and not k.startswith("sweep.")}
    return mine | {"task.name": before.task, "precision": str(before.lock.get("precision", "auto"))}


def settled(recipe: Recipe, text: str) -> tuple[Recipe, str]:
    """A recipe that goes on from a run, with that run's settings under its own; one that has them is given back."""
    if recipe.parent.run is None:
        return recipe, text
    return read(None, kept_settings(opened(Path(recipe.parent.run))) | told_keys(text))


def rows(before: Before | None, recipe: Recipe, again: Replayed) -> Iterator[tuple[str, object, str]]:
    """Of the plan: key, value, why."""
    if before is None:
        return
    yield (
        "goes on from", before.folder.name,
        f"update 0 is its weights (digest {before.tuned[:12]}), the optimizer begins anew; the base stays that of the "
        f"lineage. Its {before.num_cases} held-out cases are asked beside the new ones, and never learned from",
    )  # fmt: skip
    kept = kept_settings(before)
    then, _ = read(None, kept)
    same = [key for key in kept if value_of(recipe, key) == value_of(then, key)]
    other = [f"{key} (was {kept[key]})" for key in kept if key not in same]
    yield "kept of its settings", len(same), f"{listed(same)}; the recipe says nothing else of them"
    if other:
        yield "said anew", len(other), listed(other)
    if again.num_rows:
        yield "parent.replay", recipe.parent.replay, again.words


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more


def looked_at(then: Mapping[str, Any], recipe: Recipe) -> tuple[bool | None, str]:
    """Whether the parent that lock.json names is still what it was; None where it is not here. `then`: of the lock."""
    folder = Path(recipe.parent.run or "")
    if not (folder / "recipe.yaml").is_file():
        return None, f"{folder} is not here"
    before = before_of(recipe)
    assert before is not None
    now = before.facts()
    other = [name for name in then if then[name] != now.get(name)]
    return not other, f"other {', '.join(other)} than when this run began" if other else f"run {now['run'][:12]}"


def refuse_changed(then: Mapping[str, Any], recipe: Recipe) -> None:
    """InputError where the run cannot be made again, as it begins with weights that are not here any more."""
    same, found = looked_at(then, recipe)
    if not same:
        raise InputError(
            f"this run began with the weights of {recipe.parent.run}, and {found}. It can be made again only from the "
            f"same ones ({str(then.get('weights'))[:12]}): put that run's folder back where it was"
        )


def new_data(folder: Path, recipe: Recipe) -> list[str]:
    """Training files of a finished run that are not those it read: grown, changed, or come into its folder since."""
    if not (folder / ENDED).is_file() or not (folder / "lock.json").is_file():
        return []
    known = read_json(folder / "lock.json").get("data") or {}
    files: list[Path] = []
    for name in recipe.data.named:
        if Path(name).expanduser().exists():  # no hub is asked
            with suppress(DataError):
                files += find_splits(name)["train"]
    return [str(path) for path in files if known.get(str(path)) != sha256_file(path)]
