"""Who a run is: a name that goes with its folder wherever that is carried, and the run whose model it started from."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tunesmith.errors import DataError
from tunesmith.files import read_json, write_json

NAME = "run.json"
NOBODY = {"name": "", "id": ""}


@dataclass(frozen=True, slots=True)
class Parent:
    run: str | None = None  # its folder; its weights are update 0, its settings hold where this recipe says nothing
    replay: float = 0.0  # of all learned tokens, the share that its own training rows have among the new ones


class Born(Protocol):
    """A row of the list of runs."""

    @property
    def id(self) -> str: ...
    @property
    def parent_id(self) -> str: ...


R = TypeVar("R", bound=Born)


def begin(folder: Path) -> None:
    """Once a folder, however often the run is resumed."""
    if not (folder / NAME).is_file():
        write_json(folder / NAME, {"id": uuid.uuid4().hex, "parent": NOBODY})


def note_parent(folder: Path, model: Path) -> None:
    """`model`: the folder of the weights that it begins with. Where they are another run's, that run is the parent."""
    parent = told(model.resolve().parent)
    mine = told(folder)
    if mine["id"] and parent["id"]:
        write_json(
            folder / NAME, {"id": mine["id"], "parent": {"name": model.resolve().parent.name, "id": parent["id"]}}
        )


def told(folder: Path) -> dict[str, Any]:
    """`id` and `parent`, empty where nothing is recorded or can be read: no run is worth stopping for it."""
    found: Any = None
    if (folder / NAME).is_file():
        with suppress(DataError):
            found = read_json(folder / NAME)
    is_ours = isinstance(found, dict) and isinstance(found.get("id"), str) and isinstance(found.get("parent"), dict)
    return found if is_ours else {"id": "", "parent": NOBODY}


def tree(runs: Sequence[R]) -> list[tuple[str, R]]:
    """Each run once, children behind their parent and in the given order, with the lines that lead to it. A run whose
    parent is not among these stands at the root; so does the first of a ring, which only edited files can make."""
    ids = {run.id for run in runs if run.id}
    children: dict[str, list[R]] = {}
    for run in runs:
        children.setdefault(run.parent_id if run.parent_id in ids else "", []).append(run)
    placed: dict[int, tuple[str, R]] = {}

    def place(run: R, lead: str, under: str) -> None:
        placed[id(run)] = (lead, run)
        rows = [r for r in children.get(run.id, []) if id(r) not in placed] if run.id else []
        for row in rows:
            mark, more = ("└─ ", "   ") if row is rows[-1] else ("├─ ", "│  ")
            if id(row) not in placed:
                place(row, under + mark, under + more)

    for run in [*children.get("", []), *runs]:
        if id(run) not in placed:
            place(run, "", "")
    return list(placed.values())
