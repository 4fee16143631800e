"""`tunesmith verify` and `tunesmith reproduce`: whether a finished run is what it says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import Json, part

Run = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
Again = Annotated[Path | None, typer.Option("--out", help="Where it is made again; beside the run without it.")]


def verify(folder: Run, as_json: Json = False) -> None:
    """Is the run what it says? Hashes every input and output, opens the model, works the verdict out again.

    Example: tunesmith verify runs/quickstart
    """
    checks = part("verified").verify(folder)
    failed = [c for c in checks if c.passed is False]
    if as_json:
        show.out(json.dumps({"passed": not failed, "checks": [asdict(c) for c in checks]}, ensure_ascii=False))
    else:
        words = {True: "same", False: "DIFFERS", None: "not checked"}
        for check in checks:
            show.out(f"{words[check.passed]:>11}  {check.name}: {check.found}")
    if failed:
        raise typer.Exit(1)


def reproduce(folder: Run, out: Again = None, as_json: Json = False) -> None:
    """Make a run again from its recipe and lock, and say whether the weights are the same, and what is not.

    Example: tunesmith reproduce runs/quickstart --out runs/quickstart-again
    """
    made = part("reproduced")
    with show.Screen(quiet=as_json) as tell:
        facts = made.reproduce(folder, out, tell)
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
    else:
        for line in made.lines(facts):
            show.out(line)
    if not facts["identical"]:
        raise typer.Exit(1)
