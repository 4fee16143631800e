"""`tunesmith init`: asks, shows what was understood, writes the recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

SHOWN_CHARS = 600


def init(
    data: Annotated[str | None, typer.Argument(help="CSV, Excel, JSON, JSONL or Parquet, or a folder of them.")] = None,
    out: Annotated[Path, typer.Option(help="The recipe that is written.")] = Path("recipe.yaml"),
    target: Annotated[str | None, typer.Option(help="The column that the model should give back.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help='What it is given: columns, or a text such as "Subject: {subject}".')
    ] = None,
    task: Annotated[str | None, typer.Option(help="classify, summarise, translate, extract, generate or chat.")] = None,
    group: Annotated[str | None, typer.Option(help='The column whose rows stay together, or "none".')] = None,
    model: Annotated[str | None, typer.Option(help="A known name, a folder, or a hub name (owner/name).")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long a run may take, by a rough guess.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, take what is proposed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a file of examples, ask at most six questions, write a recipe.

    Nothing is asked with --yes or --json, or where no person sits at a terminal.

    Example: tunesmith init tickets.csv --yes
    """
    if out.exists() and not force:
        raise InputError(f"{out} is there already: name another one with --out, or write over it with --force")
    if out.is_dir():
        raise InputError(f"{out} is a folder; wanted the name of a file, such as --out {out / 'recipe.yaml'}")
    if not out.parent.is_dir():
        raise InputError(f"{out} cannot be written: there is no folder {out.parent}")
    job = part("init")
    wish = job.Wish(data, target, tuple(prompt) if prompt else None, task, group, model, minutes)
    made = job.propose(wish, None if yes or as_json or not sys.stdin.isatty() else ask)
    out.write_text(job.recipe_text(made, str(out)), encoding="utf-8")
    if as_json:
        reasons = {key: why for key, (_, why) in made.chosen.items() if why}
        facts = {"recipe": str(out), "understood": made.understood, "settings": job.settings(made)}
        show.out(json.dumps({**facts, "reasons": reasons, "notes": made.notes}, ensure_ascii=False))
    else:
        tell(made, out)


def ask(question: Any, number: int) -> str:
    """One question with its choices by number; asked again until the answer fits."""
    console = Console(stderr=True, highlight=False)
    console.print()
    console.print(Text(f"{number}. {question.text}", style="bold"))
    for at, (answer, words) in enumerate(question.choices, 1):
        console.print(Text(f"   {at:>2}  {answer}"), Text(words, style="dim"))
    while True:
        shown = f" [{question.default}]" if question.default else ""
        console.print(Text(f"   Enter takes what stands in brackets{shown}: " if shown else "   : "), end="")
        line = sys.stdin.readline()
        if not line:
            raise InputError("the questions ended before they were answered; --yes takes what is proposed")
        said = line.strip() or question.default
        if said.isdigit() and 0 < int(said) <= len(question.choices):
            said = question.choices[int(said) - 1][0]
        wrong = question.wrong(said)
        if wrong is None and said:
            return said
        console.print(Text(f"   {wrong or 'an answer is needed'}", style="yellow"))


def tell(made: Any, out: Path) -> None:
    """What was understood, on one row, and what to type next."""
    console = Console(highlight=False)
    console.print()
    console.print(Text("Understood", style="bold"), Text(made.understood))
    for message in made.example.prompt:
        console.print(Text(f"  {message.role}:"), Text(indented(message.content), style="dim"))
    console.print(Text("  learned:"), Text(indented(made.answer), style="bold green"))
    for key, (value, why) in made.chosen.items():
        if why:
            console.print(Text(f"{key}: {value}"), Text(f"({why})", style="dim"))
    for note in made.notes:
        console.print(Text("note:", style="yellow"), Text(note))
    console.print()
    console.print(Text(f"{out} is written; every line in it can be changed. Next:", style="bold"))
    if not made.model_is_here:
        show.out(f"  tunesmith models fetch {made.chosen['model'][0]}")
    show.out(f"  tunesmith run {out} --dry-run     # what would happen, nothing is trained")
    show.out(f"  tunesmith run {out}")


def indented(text: str) -> str:
    """Its beginning, with its lines as they are."""
    shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + " …"
    return shown.strip().replace("\n", "\n    ")
