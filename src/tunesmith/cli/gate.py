"""`tunesmith gate`: whether a finished run may ship, by what its recipe demands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import Json, Set, part
from tunesmith.errors import InputError


def gate(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """May it ship? The demands under `gates:` of the run's recipe, met or not. Exit code 3 where one is not met.

    Example: tunesmith gate runs/quickstart --set gates.decision=better --set gates.effect=0.05
    """
    gates, recipe = part("gates"), part("recipe")
    said, _ = recipe.read(part("opened").kept_recipe(folder), dict(recipe.override(s) for s in sets or []))
    found = gates.check(said.gates, folder)
    if not found:
        raise InputError(
            f"the recipe of {folder} demands nothing; say what must hold, such as --set gates.decision=better "
            "--set 'gates.guards=none lost' (docs/gates.md lists all)"
        )
    gates.write(found, folder)
    part("sealed").seal_again(folder, gates.WRITTEN)
    rows = [asdict(g) for g in found]
    if as_json:
        show.out(json.dumps({"passed": all(g.passed for g in found), "gates": rows}, ensure_ascii=False))
    else:
        show.gates(rows)
    if not all(g.passed for g in found):
        raise typer.Exit(3)
