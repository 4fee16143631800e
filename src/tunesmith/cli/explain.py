"""`tunesmith explain`: why a run's model answers as it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.cli.screen import Screen
from tunesmith.errors import InputError

MOST_PULLS, MOST_AGAINST, MOST_CHARS = 5, 2, 160
Folder = Annotated[Path, typer.Argument(help="The folder of a finished run.")]


def explain(
    folder: Folder,
    case: Annotated[
        str | None, typer.Option(help="A held-out case: its id, or its place, as the report shows.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Training examples to compare; each takes about a second.")] = 60,
    as_json: Json = False,
) -> None:
    """Where the tuned model fails and which layers moved; for one case, words and examples that pulled.

    Example: tunesmith explain runs/quickstart --case test.jsonl:5
    """
    if case is None:
        show_run(folder, as_json=as_json)
        return
    if examples < 2:
        raise InputError(f"--examples is {examples}; wanted at least 2")
    why = part("explain")
    row = why.find_case(folder, case)
    with Screen(quiet=as_json) as tell:
        tell.stage("model loaded", None)
        found = why.explain(part("opened").open_run(folder), folder, row, examples, tell.step)
    path = folder / "explained" / f"{found.example_id[:12]}.json"
    part("files").write_json(path, found.facts())
    if as_json:
        show.out(json.dumps(found.facts(), ensure_ascii=False))
        return
    show_case(found)
    show.out(f"kept in {path}")


def show_run(folder: Path, *, as_json: bool) -> None:
    understanding = part("understanding")
    path = folder / understanding.NAME
    if not path.is_file():
        part("opened").kept_recipe(folder)
        raise InputError(
            f"{folder} has no {understanding.NAME}: it has not come to its end, or an older tunesmith made it. "
            f"`tunesmith run --resume --out {folder}` goes on with it; --case explains one case of any finished run"
        )
    facts = part("files").read_json(path)
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not facts["topics"]:
        show.out("The cases are too few, or too like each other, to be put into topics.")
    for topic in facts["topics"]:
        low, high = topic["interval"]
        tone = show.TONE["worse"] if high < 0 else show.TONE["better"] if low > 0 else ""
        console.print(
            Text(f"{facts['metric']} {topic['score']:.3f}", style=tone),
            Text(f"about {topic['name']}: {len(topic['example_ids'])} cases, {topic['gap']:+.3f} against the others"),
            Text(f"(interval {low:+.3f} to {high:+.3f})", style="dim"),
        )
    largest = max((layer["relative"] for layer in facts["layers"]), default=0.0)
    for layer in facts["layers"]:
        bar = "▇" * max(1, round(30 * layer["relative"] / max(largest, 1e-30)))
        name = f"layer {layer['layer']}" if layer["layer"] else "outside the layers"
        console.print(Text(f"{name:>18}  {layer['relative']:.3%}  {bar}"))


def show_case(found: Any) -> None:
    """The prompt with its strongest words marked, the check, and the examples that pulled."""
    console = Console(highlight=False)
    console.print(Text("wanted  ", style="bold"), Text(short(found.reference)))
    console.print(Text("base    ", style="bold"), Text(short(found.base_output)))
    console.print(Text("tuned   ", style="bold"), Text(short(found.tuned_output)))
    console.print()
    most = max((s.drop for s in found.spans), default=0.0)
    prompt = Text()
    for span in found.spans:
        strength = span.drop / most if most > 0 else 0.0
        prompt.append(span.text, style="bold reverse" if strength > 0.5 else "bold" if strength > 0.2 else "")
    console.print(prompt)
    check = found.check
    if check is None:
        console.print(Text("The prompt is too short to hold its words against random ones.", style="dim"))
    else:
        console.print(
            f"Without the {check.num_spans} strongest pieces the answer loses {check.top_drop:.2f} nats, without as "
            f"many random ones {check.random_drop:.2f} ({check.random_as_strong} of {check.num_random} random choices "
            "did as much)."
        )
    console.print()
    console.print(f"Training examples that pulled the same way, of {found.num_compared} compared:")
    against = [p for p in found.pulls[MOST_PULLS:][::-1][:MOST_AGAINST] if p.cosine < 0]
    for pull in (*found.pulls[:MOST_PULLS], *against):
        style = show.TONE["worse"] if pull.cosine < 0 else ""
        console.print(Text(f"{pull.cosine:+.2f}  {pull.source}", style=style))
        console.print(Text(f"       {short(pull.prompt)} → {short(pull.reply)}", style="dim"))


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]} …"
