"""`tunesmith grade`: a reward tried on a file of outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, Set, part


def grade(
    reward: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe with reward:, or a grader object (.json).")
    ],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Rows with an output and the facts to grade it by.")],
    output: Annotated[str | None, typer.Option(help="The column that holds the outputs.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows with their grades here.")] = None,
    kept: Annotated[
        Path | None, typer.Option(help="Keep the answers of judges here, so that none is asked twice.")
    ] = None,
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """Try a reward on a file of outputs before training: what it gives, how it spreads, what it cannot grade.

    Example: tunesmith grade recipe.yaml answers.csv --out graded.csv
    """
    job, recipe = part("graded"), part("recipe")
    made = job.recipe_of(reward, dict(recipe.override(s) for s in sets or []))
    if out is not None:
        job.check_out(out)
    with show.Screen(quiet=as_json) as tell:
        found, said = job.grade_file(made, source, job.Asked(output, kept), tell)
    if out is not None:
        job.write(found, out)
        said["out"] = str(out)
    if as_json:
        show.out(json.dumps(said, ensure_ascii=False))
    else:
        shown(said)


def shown(said: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table("", "mean", "spread", "least", "most", "at its least", "at its most", box=None)
    for name, found in {"reward": said["reward"], **said["parts"]}.items():
        table.add_row(
            name, *(f"{found[key]:.3g}" for key in ("mean", "sd", "least", "most")),
            f"{found['at_least_frac']:.0%} ({found['low']:g})", f"{found['at_most_frac']:.0%} ({found['high']:g})",
        )  # fmt: skip
    console.print(table)
    for title in ("worst", "best"):
        for one in said[title]:
            why = f" ({one['why']})" if one["why"] else ""
            text = " ".join(one["output"].split())
            console.print(Text(f"{title}: {one['reward']:.3g}, line {one['line']}: {text[:80]!r}{why}"), soft_wrap=True)
    for line, tone in told(said):
        console.print(Text(line, style=tone), soft_wrap=True)


def told(said: dict[str, Any]) -> list[tuple[str, str]]:
    """(sentence, colour)."""
    found = [(f"{said['num_rows']} outputs graded in {said['seconds']:.1f} s", "")]
    if said["num_ungraded"]:
        whys = "; ".join(f"{num} x {why}" for why, num in said["ungraded_why"].items())
        found.append((f"{said['num_ungraded']} could not be graded and have the least: {whys}", "yellow"))
    if said["num_groups_all_equal"]:
        found.append(
            (f"of {said['num_groups']} prompts with several outputs, {said['num_groups_all_equal']} have equal "
             "rewards: such a group teaches nothing", "yellow")
        )  # fmt: skip
    if said["with_length"] is not None and abs(said["with_length"]) >= 0.5:
        more = "longer" if said["with_length"] > 0 else "shorter"
        found.append(
            (f"{more} outputs get more (correlation {said['with_length']:.2f} with the length): look whether length is "
             "what you want", "yellow")
        )  # fmt: skip
    if said["all_equal"]:
        found.append((f"all rewards are {said['reward']['mean']:g}: nothing could be learned from it", "red"))
    if "out" in said:
        found.append((f"{said['out']}: each row with its grade", ""))
    return found
