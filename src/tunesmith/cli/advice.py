"""`tunesmith next`: what most likely held a run back, and a recipe that changes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part


def next_(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    out: Annotated[Path, typer.Option(help="The recipe that is written.")] = Path("next.yaml"),
    as_json: Json = False,
) -> None:
    """What most likely held a run back, with the figures, and a recipe that changes it.

    Example: tunesmith next runs/quickstart
    """
    found = part("causes").advise(folder, out)
    if as_json:
        show.out(json.dumps(found, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for cause in found["causes"]:
        console.print(Text(cause["name"], style="bold"), Text(cause["evidence"]), soft_wrap=True)
        for key, value in cause["keys"].items():
            console.print(Text(f"  {key}: {'null' if value is None else value}"))
        if cause["also"]:
            console.print(Text(f"  {cause['also']}", style="dim"), soft_wrap=True)
    if not found["causes"]:
        show.out("nothing stands out. More rows help most often; `tunesmith sweep` tries other settings on dev")
    if found["new_data"]:
        show.out(f"not what this run read: {', '.join(found['new_data'])}. To go on from its weights with new rows:")
        files = [word for name in found["new_data"] for word in ("--data", name)]
        show.out(f"  {shlex.join(['tunesmith', 'run', '--from', str(folder), *files])}")
    if found["recipe"]:
        show.out(f"{found['recipe']} changes {', '.join(found['changed'])}. Next:")
        show.out(f"  tunesmith run {found['recipe']}")
