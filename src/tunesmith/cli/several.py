"""`--processes`: one command in several processes, and its part in each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import part
from tunesmith.errors import InputError

Processes = Annotated[
    int | None, typer.Option("--processes", help="Train in so many processes of this machine, one for each GPU.")
]


@contextmanager
def together() -> Iterator[Any]:
    """Who trains: this process alone, or those that torchrun or --processes started. Another than the first ends
    here."""
    with part("crew").joined() as ranks:
        yield ranks


def several(processes: int | None, ranks: Any, out: Path | None, folder: Path) -> None:
    """Where so many processes are asked for and nobody started them: start them, and end with what they end with."""
    if ranks.size > 1:
        if processes not in (None, ranks.size):
            raise InputError(f"--processes is {processes}, and {ranks.size} were started: leave it out under torchrun")
        if out is None:
            raise InputError("several processes want --out: by it a new start finds what the last one kept")
        return
    if processes is None or part("exits").place() is not None:
        return
    if processes < 1:
        raise InputError(f"--processes is {processes}; wanted at least 1")
    if processes == 1:
        return
    words = sys.argv[1:] if out is not None else [*sys.argv[1:], "--out", str(folder)]
    raise typer.Exit(part("launch.elastic").launch(words, processes))


def goes_on(out: Path | None) -> bool:
    """Whether torch started all processes again, so that nobody says --resume, and there is a run to go on with."""
    if out is None or not part("engine.ranks").is_launched():
        return False
    begun = [path.parent for name in ("", "seed_*/") for path in out.glob(f"{name}recipe.yaml")]
    return any(map(part("folder").is_started_again, begun)) or (bool(begun) and part("engine.ranks").num_restarts() > 0)
