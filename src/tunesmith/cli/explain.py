"""`tunesmith explain`: why a run's model answers as it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.cli.screen import Screen
from tunesmith.errors import InputError

MOST_PULLS, MOST_AGAINST, MOST_CHARS, MOST_EXAMPLES = 5, 2, 160, 60
NUM_SHOWN = 3  # cases named for each kind of error
Folder = Annotated[Path, typer.Argument(help="The folder of a finished run.")]


def explain(
    folder: Folder,
    case: Annotated[
        str | None, typer.Option(help="A held-out case: its id, or its place, as the report shows.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="Training examples to compare, a second each; left out: what is kept, else 60.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Where the tuned model fails and which layers moved; for one case, words and examples that pulled.

    Example: tunesmith explain runs/quickstart --case test.jsonl:5
    """
    if case is None:
        show_run(folder, as_json=as_json)
        return
    if examples is not None and examples < 2:
        raise InputError(f"--examples is {examples}; wanted at least 2")
    why, explained = part("explain"), part("explained")
    row = why.find_case(folder, case)
    facts = explained.kept(folder, row["example_id"]) if examples is None else None
    if facts is None:
        num = MOST_EXAMPLES if examples is None else examples
        effort = why.Effort(num_near=num // 2, num_drawn=num - num // 2)
        with Screen(quiet=as_json) as tell:
            tell.stage("model loaded", None)
            found = why.explain(part("opened").open_run(folder), folder, row, effort, tell.step)
        explained.keep(folder, found)
        part("sealed").seal_again(folder, [explained.FOLDER])
        facts = found.facts()
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
        return
    show_case(facts)
    show.out(f"kept in {explained.path_of(folder, facts['example_id'])}; --examples N looks again")


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
    if facts.get("errors"):
        show_errors(console, facts["errors"])
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


def show_errors(console: Console, found: Mapping[str, Any]) -> None:
    """Kinds of error, the commonest first: how many of the failing cases, and what tuning did about it."""
    console.print(
        f"{found['num_tuned']} of {found['num_cases']} cases fail ({found['num_base']} of the base's answers). By kind "
        "of error; a case may have several:"
    )
    for kind in found["kinds"]:
        low, high = kind["change_interval"]
        tone = show.TONE["worse"] if low > 0 else show.TONE["better"] if high < 0 else ""
        console.print(
            Text(f"{len(kind['example_ids']):>5} {kind['name']}", style=tone),
            Text(f"{kind['share']:.0%} of them; cured {kind['num_cured']}, caused {kind['num_caused']};"),
            Text(
                f"such as {', '.join(i[:12] for i in kind['example_ids'][:NUM_SHOWN]) or 'none any more'}", style="dim"
            ),
        )
    if found["num_unnamed"]:
        console.print(Text(f"{found['num_unnamed']:>5} of no kind that a program sees", style="dim"))
    console.print()


def show_case(facts: Mapping[str, Any]) -> None:
    """The prompt with its strongest words marked, the check, and the examples that pulled."""
    console = Console(highlight=False)
    for title, key in (("wanted  ", "reference"), ("base    ", "base_output"), ("tuned   ", "tuned_output")):
        console.print(Text(title, style="bold"), Text(short(facts[key])))
    console.print()
    most = max((s["drop"] for s in facts["spans"]), default=0.0)
    prompt = Text()
    for span in facts["spans"]:
        strength = span["drop"] / most if most > 0 else 0.0
        prompt.append(span["text"], style="bold reverse" if strength > 0.5 else "bold" if strength > 0.2 else "")
    console.print(prompt)
    check = facts["check"]
    if check is None:
        console.print(Text("The prompt is too short to hold its words against random ones.", style="dim"))
    else:
        console.print(
            f"Without the {check['num_spans']} strongest pieces the answer loses {check['top_drop']:.2f} nats, without "
            f"as many random ones {check['random_drop']:.2f} ({check['random_as_strong']} of {check['num_random']} "
            "random choices did as much)."
        )
    console.print()
    pulls = facts["pulls"]
    console.print(f"Training examples that pulled the same way, of {facts['num_compared']} compared:")
    against = [p for p in pulls[MOST_PULLS:][::-1][:MOST_AGAINST] if p["cosine"] < 0]
    for pull in (*pulls[:MOST_PULLS], *against):
        style = show.TONE["worse"] if pull["cosine"] < 0 else ""
        console.print(Text(f"{pull['cosine']:+.2f}  {pull['source']}", style=style))
        console.print(Text(f"       {short(pull['prompt'])} → {short(pull['reply'])}", style="dim"))


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]} …"
