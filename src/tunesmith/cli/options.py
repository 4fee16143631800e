"""What the commands share: their options, the lazy loader, the recipe that a command line says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show

RecipeFile = Annotated[Path | None, typer.Argument(help="A YAML recipe. Without one, --data is enough.")]
Model = Annotated[str | None, typer.Option(help="A known name, a folder, a GGUF file, or a hub name (owner/name).")]
DataFiles = Annotated[
    list[Path] | None, typer.Option("--data", help="A file, or a folder with train, dev and test files.")
]
TestFiles = Annotated[list[Path] | None, typer.Option("--test", help="A file of held-out cases.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value of the recipe, such as train.epochs=3.")]
GoOn = Annotated[Path | None, typer.Option("--from", help="A finished run to go on from, with its settings.")]
Strict = Annotated[bool, typer.Option("--strict", help="A row that cannot be used is an error: data.strict=true.")]
Out = Annotated[Path | None, typer.Option(help="The run folder; made from date, model and data without it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def part(name: str) -> Any:
    """The one lazy loader: torch and transformers take seconds to import, and --help needs neither."""
    return importlib.import_module(f"tunesmith.{name}")


def recipe_of(
    file: Path | None, model: str | None, data: list[Path] | None, test: list[Path] | None, sets: list[str] | None,
    *, strict: bool = False, parent: Path | None = None,
) -> Any:  # fmt: skip
    """(recipe, text) from a file and what the command line says on top of it."""
    recipe = part("recipe")
    said: dict[str, Any] = {"model": model} if model else {}
    if strict:
        said["data.strict"] = True
    if parent is not None:
        said["parent.run"] = str(parent)
    if data:
        said["data.train"] = [str(p) for p in data]
    if test:
        said["data.test"] = [str(p) for p in test]
    said |= dict(recipe.override(s) for s in sets or [])
    made, text = recipe.read(file, said)
    return (made, text) if made.parent.run is None else part("heritage").settled(made, text)


def finish(verdict: dict[str, Any], folder: Path, *, as_json: bool, require_better: bool) -> None:
    """The last words of a run. Exit code 3 where a gate of its recipe, or --require-better, is not met."""
    gates = part("gates")
    found = gates.kept(folder / gates.NAME) or []
    if as_json:
        show.out(json.dumps({**verdict, "folder": str(folder), "gates": found}, ensure_ascii=False))
    else:
        show.verdict(verdict, str(folder / "report.html"))
        show.gates(found)
    if (require_better and verdict["decision"] != "better") or not all(g["passed"] for g in found):
        raise typer.Exit(3)
