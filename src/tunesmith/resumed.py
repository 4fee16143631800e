"""What may be different when a run goes on: nothing that what is kept in its folder was made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import InputError
from tunesmith.importing.reading import flat
from tunesmith.recipe import Recipe, read

MAY_CHANGE = ("export", "trackers", "gates", "energy")  # keys of a recipe that no number depends on
AT = tuple(f"objective.policy.server.{key}" for key in ("endpoint", "api_key_env"))  # a server that moved
MOVED = "parent.run"  # a folder: what it holds is told by the lock
ON_NAN = ("abort", "skip", "rollback")  # each does what the next one does, until it ends the run
FREE = ("processes", "threads", "fitted.parallel")  # with another number of processes


def refuse_other_recipe(recipe: Recipe, out: Path) -> None:
    """What is kept in the folder was made by the recipe that is kept there, and half of each would be neither."""
    before, _ = read(out / "recipe.yaml", {})
    then, now = (dict(flat(asdict(r))) for r in (before, recipe))
    if ON_NAN.index(before.train.on_nan) < ON_NAN.index(recipe.train.on_nan):
        then["train.on_nan"] = recipe.train.on_nan
    different = [k for k in {**then, **now} if then.get(k) != now.get(k) and k.split(".")[0] not in MAY_CHANGE]
    different = [k for k in different if k not in (MOVED, *AT) or None in (then[k], now[k])]
    if different:
        key = different[0]
        raise InputError(
            f"this is not the run that was started: {', '.join(different)} changed since then (for one, "
            f"{key} was {then.get(key)!r} and is {now.get(key)!r} now). To go on with it: tunesmith run --resume --out "
            f"{out}; for the new recipe, name another --out"
        )


def refuse_other_lock(before: dict[str, Any] | None, locked: dict[str, Any], say: Callable[[str], None]) -> None:
    """`before`: what the run's folder keeps, None where it just begins. Another number of processes may go on: they
    change the last bits alone, as the threads of each do."""
    if before is None or before == locked:
        return
    then, now = dict(flat(before)), dict(flat(locked))
    if then.get("processes", 1) != now.get("processes", 1):
        say(f"going on with {now.get('processes', 1)} processes instead of {then.get('processes', 1)}: the same "
            "updates but for their last bits")  # fmt: skip
        then, now = ({k: v for k, v in lock.items() if k not in FREE} for lock in (then, now))
    different = [k for k in {**then, **now} if then.get(k) != now.get(k)]
    if not different:
        return
    raise InputError(
        f"this is not the run that was started: {', '.join(different[:5])} changed since then (for one, "
        f"{different[0]} was {short(then.get(different[0]))} and is {short(now.get(different[0]))} now). Restore "
        "what changed, or start a new run with another --out"
    )


def short(value: Any) -> str:
    """A digest by its beginning."""
    text = "nothing" if value is None else str(value)
    return text if len(text) < 40 else f"{text[:12]} …"
