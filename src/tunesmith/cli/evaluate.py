"""`tunesmith evaluate`: any model on held-out cases, alone or against another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

WHAT = "A run, a folder, a known or hub name, a GGUF file, or http(s)://host/v1#model."
KEY = "Environment variable that holds the key of the endpoint "


def evaluate(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=WHAT)],
    against: Annotated[str | None, typer.Option(help="The model to compare it with, named in the same ways.")] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Ask as this run did; without --data, about its held-out cases.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="A file of cases; all of its rows are asked.")] = None,
    metric: Annotated[str | None, typer.Option(help="Else that of the run, or of the task.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Else that of the run, or of the task; '' for none.")] = None,
    cases: Annotated[int | None, typer.Option(help="Ask at most this many, drawn by the hash of their ids.")] = None,
    matters: Annotated[float | None, typer.Option(help="The smallest difference that you would care about.")] = None,
    key_env: Annotated[str | None, typer.Option(help=KEY + "WHAT.")] = None,
    against_key_env: Annotated[str | None, typer.Option(help=KEY + "--against.")] = None,
    yes_send: Annotated[bool, typer.Option("--yes-send", help="Prompts may leave this machine.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for scores, cases and report.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Score any model on held-out cases, or compare two: is my tuned model as good as the one it replaces?

    Example: tunesmith evaluate runs/quickstart --against http://127.0.0.1:8001/v1#big-model
    """
    job, questions, answerers = part("evaluated"), part("questions"), part("answerers")
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the evaluation that is to go on")
    folder = out or job.default_folder(what)
    job.check_folder(folder, resume=resume)
    runs = tuple(dict.fromkeys(Path(w) for w in (like, what, against) if w and (Path(w) / "recipe.yaml").is_file()))
    if like is not None and like not in runs:
        raise part("opened").no_run(like)
    who = answerers.answerer(what, key_env, may_send=yes_send)
    other = None if against is None else answerers.answerer(against, against_key_env, may_send=yes_send)
    if against is None and against_key_env is not None:
        raise InputError("--against-key-env is for the endpoint that --against names, and there is none")
    said = questions.Said(metric, cases, matters, instruction)
    if runs:
        asked = questions.of_run(runs[0], data or (), said)
    elif data:
        asked = questions.of_files(data, said)
    else:
        raise InputError(
            "there is nothing to ask: name cases with --data FILE, or a run that held some out, --like RUN"
        )
    with show.Screen(quiet=as_json) as tell:
        for one in filter(None, (who, other)):
            answerers.announce(one, asked, tell.say)
        found = job.evaluate(job.Asked(who, other, runs), asked, folder, tell)
    if as_json:
        show.out(json.dumps({**found, "folder": str(folder)}, ensure_ascii=False))
    else:
        shown(found, folder)


def shown(found: dict[str, Any], folder: Path) -> None:
    console = Console(highlight=False)
    console.print()
    if "decision" in found:
        console.print(Text(found["decision"].upper(), style=show.TONE[found["decision"]]), Text(found["claim"]))
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    others = list(found["models"][0]["secondary"])
    for name in ("model", found["metric"], "interval", *others):
        table.add_column(name, overflow="fold", justify="left" if name in ("model", "interval") else "right")
    for row in found["models"]:
        low, high = row["interval"]
        rest = [f"{row['secondary'][name]['score']:.3f}" for name in others]
        table.add_row(row["name"], f"{row['score']:.3f}", f"{low:.3f} to {high:.3f}", *rest)
    console.print(table)
    if "test" in found:
        console.print(f"{found['test']}, p = {found['p']:.2g}, level {found['alpha']:g}")
    console.print(f"{found['num_cases']} cases: {found['source']}")
    for note in found["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"report: {folder / 'report.md'}", style="bold"))
