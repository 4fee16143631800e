"""One training among many on a base loaded once: settings of a sweep, sizes of a curve. It sees no test case."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tunesmith import reference
from tunesmith.build import Compute, Material, load_base, material, num_updates
from tunesmith.data.feed import FileFeed
from tunesmith.engine.cuts import Cuts, give_back
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import InputError, NotFinite, Overflow, PlanError, TunesmithError, is_memory
from tunesmith.fitted import Fitted
from tunesmith.folder import RunFolder, Silent, Teller
from tunesmith.importing.reading import flat
from tunesmith.models.load import Base
from tunesmith.probing import start_head
from tunesmith.recipe import Recipe, read
from tunesmith.settled import settle
from tunesmith.speeds import session_of
from tunesmith.stopping import Stop
from tunesmith.teach import teach
from tunesmith.trackers.tracked import Tracked

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Given:
    """What all trainings are given. `made` holds no test case."""

    recipe: Recipe
    text: str
    folder: RunFolder
    base: Base
    made: Material
    where: Compute


@dataclass(frozen=True, slots=True)
class Apart:
    """By what another process comes to have the same. `out`: the folder that its own process holds."""

    recipe: Recipe
    text: str
    out: Path
    where: Compute

    def laid_out(self) -> tuple[RunFolder, Base, Material]:
        base = load_base(self.recipe, self.where, learns=True)
        made = put_away(material(self.recipe, base))
        folder = RunFolder(self.out, Silent(), Stop(Silent().say))
        start_head(self.recipe, folder, base, made)
        return folder, base, made


class Ended(TunesmithError):
    """A trial that does not come to its end; `state` says why in a word."""

    def __init__(self, state: str, why: str) -> None:
        super().__init__(why)
        self.state = state


class Clock(Tracked):
    """Hears what a trial notes, and ends one that has no time left. It is no tracker's."""

    def __init__(self, updates: int, until: float) -> None:
        super().__init__((), Path(), lambda text: None)
        self.updates, self.until = updates, until

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        if time.monotonic() > self.until:
            raise Ended("out of time", f"the time was over at update {update} of {self.updates}")


class Within(Silent):
    """Of a trial's own words only its progress is shown."""

    def __init__(self, tell: Teller) -> None:
        self.tell = tell

    def step(self, done: int, total: int, text: str) -> None:
        self.tell.step(done, total, text)

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.tell.updated(update, num_updates, facts)


def put_away(made: Material) -> Material:
    """Without a test case or one from elsewhere: what a trial does not have, it cannot look at."""
    return replace(made, split=replace(made.split, test=()), ood=())


def refuse_other(recipe: Recipe, out: Path, command: str, may_change: Collection[str] = ()) -> None:
    """Half of the trials with one recipe and half with another's would say nothing of either."""
    before, _ = read(out / "recipe.yaml", {})
    then, now = (dict(flat(asdict(r))) for r in (before, recipe))
    different = [k for k in {**then, **now} if then.get(k) != now.get(k) and k not in may_change]
    if different:
        raise InputError(
            f"this is not the {command} that was started: {', '.join(different)} changed since then. To go on with it: "
            f"tunesmith {command} --resume --out {out}; for another one, name another --out"
        )


def refuse_changed(folder: RunFolder, name: str, same: Mapping[str, Any], command: str) -> None:
    """InputError where what stands under `name` is not `same`, which is written there the first time."""
    before = folder.read(name)
    if before is not None and before != same:
        what = next(key for key in same if before.get(key) != same[key])
        raise InputError(
            f"this is not the {command} that was started: {what} changed since then; another one needs another --out"
        )
    folder.write(name, same)


def attempted(row: dict[str, Any], work: Callable[[], Found]) -> Found | None:
    """What `work` found; None where the trial did not come to its end, and `row` says why."""
    try:
        return work()
    except (Ended, NotFinite, Overflow, PlanError) as error:
        row["why"] = str(error)
        row["state"] = (
            error.state if isinstance(error, Ended) else "refused" if isinstance(error, PlanError) else "diverged"
        )
    except (RuntimeError, MemoryError) as error:
        if not is_memory(error):
            raise
        row |= {"state": "no memory", "why": f"memory ran out after update {row['updates']}, nothing is left to halve"}
    if row["state"] == "no memory":
        give_back()
    return None


@contextmanager
def learned(
    fitted: Fitted, inner: RunFolder, base: Base, made: Material, tracked: Tracked, row: dict[str, Any]
) -> Iterator[tuple[Session, Snapshot, Material]]:
    """The training of a run, open to be measured. `row` is told how many updates there are, and were made."""
    assert isinstance(fitted.feed, FileFeed), "nothing is sampled in a trial"
    session = session_of(fitted, base, Cuts())
    try:
        state, made = reference.begin(fitted.recipe, inner, session, made, fitted.feed)
        row["num_updates"] = num_updates(fitted.recipe, fitted.feed)
        try:
            teach(fitted.recipe, inner, session, made, state, fitted.feed, tracked)
        finally:
            row["updates"] = state.update
        yield session, settle(fitted.recipe, inner, session, made), made
    finally:
        session.close()
