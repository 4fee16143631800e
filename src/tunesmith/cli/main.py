"""The command line. Commands parse, call and print; what they call is loaded only then, so that --help is quick."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.errors import InputError, TunesmithError

app = typer.Typer(
    help="Fine-tunes a pre-trained language model on your examples and proves whether the result is better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models: which are known, and bringing one here.", no_args_is_help=True)
app.add_typer(models_app, name="models")

RecipeFile = Annotated[Path | None, typer.Argument(help="A YAML recipe. Without one, --data is enough.")]
Model = Annotated[str | None, typer.Option(help="A known name, a folder, or a hub name (owner/name).")]
DataFiles = Annotated[
    list[Path] | None, typer.Option("--data", help="A file, or a folder with train, dev and test files.")
]
TestFiles = Annotated[list[Path] | None, typer.Option("--test", help="A file of held-out cases.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value of the recipe, such as train.epochs=3.")]
Out = Annotated[Path | None, typer.Option(help="The run folder; made from date, model and data without it.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def part(name: str) -> Any:
    """The one lazy loader: torch and transformers take seconds to import, and --help needs neither."""
    return importlib.import_module(f"tunesmith.{name}")


def recipe_of(
    file: Path | None, model: str | None, data: list[Path] | None, test: list[Path] | None, sets: list[str] | None
) -> Any:
    """(recipe, text) from a file and what the command line says on top of it."""
    recipe = part("recipe")
    said: dict[str, Any] = {"model": model} if model else {}
    if data:
        said["data.train"] = [str(p) for p in data]
    if test:
        said["data.test"] = [str(p) for p in test]
    said |= dict(recipe.override(s) for s in sets or [])
    return recipe.read(file, said)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/quickstart"),
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """The whole job on the embedded model and a made-up shop's inbox: on a CPU, in minutes.

    Example: tunesmith quickstart
    """
    finish(
        *part("quickstart").quickstart(out, show.Screen(quiet=as_json), resume=resume),
        as_json=as_json,
        require_better=False,
    )


@app.command()
def run(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    out: Out = None,
    resume: Resume = False,
    as_json: Json = False,
    require_better: Annotated[
        bool, typer.Option("--require-better", help='Exit with 3 unless the verdict is "better".')
    ] = False,
) -> None:
    """Audit, plan, baseline, train, evaluate, verdict, export and report.

    Example: tunesmith run --model smollm2-135m-instruct --data tickets.csv
    """
    if resume and out is not None and file is None and not data:
        file = out / "recipe.yaml"
    recipe, text = recipe_of(file, model, data, test, sets)
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run that is to go on")
    job = part("run")
    folder = out or job.default_name(recipe)
    verdict = job.run(recipe, text, folder, show.Screen(quiet=as_json), resume=resume)
    finish(verdict, folder, as_json=as_json, require_better=require_better)


def finish(verdict: dict[str, Any], folder: Path, *, as_json: bool, require_better: bool) -> None:
    if as_json:
        show.out(json.dumps({**verdict, "folder": str(folder)}, ensure_ascii=False))
    else:
        show.verdict(verdict, str(folder / "report.html"))
    if require_better and verdict["decision"] != "better":
        raise typer.Exit(3)


@app.command()
def audit(
    data: DataFiles = None, file: RecipeFile = None, model: Model = None, sets: Set = None, as_json: Json = False
) -> None:
    """What is in the data, what is wrong with it, and what would leak into the test set.

    Example: tunesmith audit --data tickets.csv
    """
    recipe, _ = recipe_of(file, model, data, None, sets)
    build = part("build")
    found = build.material(recipe, build.load_base(recipe, build.compute(recipe))).audit
    if as_json:
        show.out(json.dumps(found, ensure_ascii=False))
    else:
        for line in part("data.audit").summary_lines(found):
            show.out(line)


@app.command()
def plan(
    file: RecipeFile = None,
    model: Model = None,
    data: DataFiles = None,
    test: TestFiles = None,
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """What a run would do, every value resolved, with the reasons. Nothing is trained or written.

    Example: tunesmith plan --data tickets.csv --set train.epochs=3
    """
    recipe, _ = recipe_of(file, model, data, test, sets)
    build = part("build")
    where = build.compute(recipe)
    base = build.load_base(recipe, where)
    planned, _ = part("plan").make(recipe, base, build.material(recipe, base), where)
    if as_json:
        show.out(json.dumps(planned, ensure_ascii=False))
    else:
        for row in planned["resolved"]:
            show.out(f"{row['key']}: {row['value']}  ({row['why']})")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html and report.md of a run again, from its files.

    Example: tunesmith report runs/quickstart
    """
    path = part("report.html").write(folder)
    part("report.card").write_report(folder)
    show.out(str(path))


@models_app.command("list")
def models_list() -> None:
    """The models that are known by name, and whether they are here.

    Example: tunesmith models list
    """
    catalogue = part("models.catalogue")
    for name, entry in catalogue.EMBEDDED.items():
        here = "here" if catalogue.converted_folder(entry).is_dir() else f"not here: tunesmith models fetch {name}"
        show.out(f"{name}  ({entry.base_model}, {entry.licence}; {entry.note})  {here}")


@models_app.command("fetch")
def models_fetch(name: Annotated[str, typer.Argument(help="A known name, or a hub name (owner/name).")]) -> None:
    """Bring a model to this machine: download, check its digest, convert once.

    Example: tunesmith models fetch smollm2-135m-instruct
    """
    located = part("models.catalogue").fetch(name)
    show.out(f"{located.name} is in {located.folder}")


def main() -> None:
    """Runs a command; a user's mistake is one message and the documented exit code, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", module="transformers|peft|torch")
    try:
        app()
    except TunesmithError as error:
        show.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        show.error("stopped; what was saved before is whole: the same command with --resume and --out goes on")
        sys.exit(75)


if __name__ == "__main__":
    main()
