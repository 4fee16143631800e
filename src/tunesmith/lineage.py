"""Who a run is: a name that goes with its folder wherever that is carried, and the run whose model it started from."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.files import read_json, write_json

NAME = "run.json"
NOBODY = {"name": "", "id": ""}


def begin(folder: Path) -> None:
    """Once a folder, however often the run is resumed."""
    if not (folder / NAME).is_file():
        write_json(folder / NAME, {"id": uuid.uuid4().hex, "parent": NOBODY})


def note_parent(folder: Path, model: Path) -> None:
    """`model`: the folder of the base. Where it is another run's model, that run is the parent."""
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
