"""`tunesmith curve`: what more rows would bring, from trainings on fewer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.going_on import going_on
from tunesmith.cli.options import DataFiles, Json, Model, RecipeFile, Resume, Set, part, recipe_of
from tunesmith.cli.several import AtOnce, RayAddress, again, side_by_side
from tunesmith.errors import InputError


def curve(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    budget: Annotated[str, typer.Option(help="The time for all of it: 30m, 2h, 90s.")] = "30m",
    on: Annotated[
        str | None, typer.Option(help="What is measured on dev: loss, or score, the task's metric, with its answers.")
    ] = None,
    sets: Set = None,
    out: Annotated[Path | None, typer.Option(help="The folder; made from date and data without it.")] = None,
    resume: Resume = False,
    as_json: Json = False,
    at_once: AtOnce = None,
    ray_address: RayAddress = None,
) -> None:
    """Train on nested parts of the rows, and say what twice the data would bring, with its interval.

    Example: tunesmith curve recipe.yaml --budget 30m
    """
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the curve that is to go on")
    if resume and out is not None and file is None and not data:
        file = part("opened").kept_recipe(out)
    if on not in (None, "loss", "score"):
        raise InputError(f"--on is {on!r}; wanted loss or score")
    job = part("curve")
    budget_s = job.seconds_of(budget)
    recipe, text = recipe_of(file, model, data, None, sets)
    folder = out or part("run").default_name(recipe, "curve")
    flags = ["--budget", budget, *["--json"] * as_json, *again(at_once, ray_address)]
    with (
        going_on("curve", folder, flags, quiet=as_json) as tell,
        side_by_side(at_once, ray_address, folder) as beside,
    ):
        found = job.curve(recipe, text, folder, tell, job.Climb(budget_s, on, beside), resume=resume)
    if as_json:
        show.out(json.dumps({**found, "folder": str(folder)}, ensure_ascii=False))
    else:
        told(found, folder)


def told(found: dict[str, Any], folder: Path) -> None:
    page, console = part("report.curve_page"), Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("rows", found["metric"], "interval", ""):
        table.add_column(name, justify="left" if name in ("", "interval") else "right", no_wrap=True)
    for cells in page.lines(found):
        table.add_row(*cells)
    console.print(table)
    for sentence in page.summary(found):
        console.print(Text(sentence), soft_wrap=True)
    console.print(Text(f"page: {folder / 'curve.html'}", style="bold"))
