"""`tunesmith sweep`: settings of a recipe tried on dev, and the best one as a recipe."""

from __future__ import annotations

import importlib.util
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

Try = Annotated[
    list[str] | None, typer.Option("--try", help="What to try: lr=1e-5..1e-3, or adapt.rank=8,16,64. May be repeated.")
]
Trials = Annotated[int | None, typer.Option("--trials", help="How many settings are tried: sweep.trials.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="How long it may take: sweep.minutes.")]
Range = Annotated[
    bool, typer.Option("--range", help="A range test instead: one short training in which the learning rate rises.")
]
Out = Annotated[Path | None, typer.Option(help="The folder of the search; made from date and data without it.")]


def sweep(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    tries: Try = None,
    trials: Trials = None,
    minutes: Minutes = None,
    sets: Set = None,
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
    at_once: AtOnce = None,
    ray_address: RayAddress = None,
    by_range: Range = False,
) -> None:
    """Try settings of a recipe on dev, never on test, and write the best one as a recipe to run.

    Example: tunesmith sweep recipe.yaml --try lr=1e-5..1e-3 --try adapt.rank=8,16,64 --minutes 30
    """
    if by_range:
        unread = {
            "--try": tries, "--trials": trials, "--minutes": minutes, "--resume": resume, "--at-once": at_once,
            "--ray-address": ray_address,
        }  # fmt: skip
        if idle := next((name for name, value in unread.items() if value), None):
            raise InputError(f"{idle} does nothing with --range, which is one training of a few minutes: leave it out")
        recipe, text = recipe_of(file, model, data, None, sets or [])
        risen(recipe, text, out or part("run").default_name(recipe, "range"), as_json=as_json)
        return
    if importlib.util.find_spec("optuna") is None:
        raise InputError("a sweep needs the package optuna, which is not installed: `pip install 'tunesmith[sweep]'`")
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the search that is to go on")
    if resume and out is not None and file is None and not data:
        file = part("opened").kept_recipe(out)
    said = dict(part("space").tried(text) for text in tries or [])
    budget = [f"sweep.{k}={v}" for k, v in (("trials", trials), ("minutes", minutes)) if v is not None]
    recipe, text = recipe_of(file, model, data, None, [*(sets or []), *budget])
    if said:
        recipe, text = part("sweep").trying(text, said)
    folder = out or part("run").default_name(recipe, "sweep")
    with (
        going_on("sweep", folder, [*["--json"] * as_json, *again(at_once, ray_address)], quiet=as_json) as tell,
        side_by_side(at_once, ray_address, folder) as beside,
    ):
        found = part("sweep").sweep(recipe, text, folder, tell, resume=resume, beside=beside)
    if as_json:
        show.out(json.dumps({**found, "folder": str(folder)}, ensure_ascii=False))
    else:
        told(found, folder)


def risen(recipe: Any, text: str, folder: Path, *, as_json: bool) -> None:
    with going_on("sweep", folder, quiet=as_json) as tell:
        found = part("rate_range").rate_range(recipe, text, folder, tell)
    if as_json:
        show.out(json.dumps({**found, "folder": str(folder)}))
        return
    for sentence in part("report.range_page").summary(found):
        show.out(sentence)
    show.out(f"page: {folder / 'range.html'}")
    show.out(f"next:\n  tunesmith run {folder / 'best.yaml'}")


def told(found: dict[str, Any], folder: Path) -> None:
    page = part("report.sweep_page")
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    heads = ["setting", *(k.split(".", 1)[1] for k in found["space"]), found["on"], "how it ended"]
    for name in heads:
        table.add_column(name, overflow="fold")
    for row in page.ranked(found):
        value = row["score"] if found["on"] == "score" else row["loss"]
        cells = [str(row["number"]), *(page.shown(row["values"][k]) for k in found["space"])]
        table.add_row(
            *cells, "" if value is None else f"{value:.4f}", page.WORDS[row["state"]],
            style="bold green" if row["number"] == found["best"] else "",
        )  # fmt: skip
    console.print(table)
    for sentence in page.summary(found):
        console.print(Text(sentence), soft_wrap=True)
    console.print(Text(f"page: {folder / 'sweep.html'}", style="bold"))
    console.print(Text("next:", style="bold"))
    show.out(f"  tunesmith run {found['recipe']}")
