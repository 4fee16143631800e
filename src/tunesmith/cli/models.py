"""`tunesmith models`: which are known, and bringing one here."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import part

app = typer.Typer(help="Models: which are known, and bringing one here.", no_args_is_help=True)


@app.command("list")
def models_list() -> None:
    """The models that are known by name, and whether they are here.

    Example: tunesmith models list
    """
    catalogue = part("models.catalogue")
    for name, entry in catalogue.EMBEDDED.items():
        here = "here" if catalogue.converted_folder(entry).is_dir() else f"not here: tunesmith models fetch {name}"
        show.out(f"{name}  ({entry.base_model}, {entry.licence}; {entry.note})  {here}")


@app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A known name, or a hub name (owner/name).")]) -> None:
    """Bring a model to this machine: download, check its digest, convert once.

    Example: tunesmith models fetch smollm2-135m-instruct
    """
    located = part("models.catalogue").fetch(name)
    show.out(f"{located.name} is in {located.folder}")
