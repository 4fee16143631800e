"""`tunesmith runs` and `tunesmith compare`: what was run here, and runs side by side on the same cases."""

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

Folder = Annotated[Path, typer.Argument(help="Where the runs are; the folders below are looked through.")]
Sort = Annotated[str, typer.Option("--sort", help="when, effect, cost, name or state.")]
Runs = Annotated[list[Path], typer.Argument(help="Two or more folders of runs, or of `tunesmith evaluate`.")]
MetricName = Annotated[str | None, typer.Option("--metric", help="Else what the verdicts are about.")]
SavedTo = Annotated[Path | None, typer.Option("--out", help="A JSON file for all of it, case by case.")]
TONES = {**show.TONE, "running": "bold cyan", "interrupted": "yellow", "failed": "bold red", "unreadable": "bold red"}


def runs(folder: Folder = Path("runs"), sort: Sort = "when", as_json: Json = False) -> None:
    """The runs below a folder: when, on what, what was found, what it cost, and how far those came that did not end.

    Example: tunesmith runs
    """
    found = part("runs").find(folder, sort)
    if as_json:
        show.out(json.dumps([run.facts() for run in found], ensure_ascii=False))
        return
    if not found:
        show.out(f"no runs under {folder}: `tunesmith run --data FILE` makes one")
        return
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("run", "model, data", "state", "effect", "cost"):
        table.add_column(name, overflow="fold", no_wrap=name in ("effect", "cost"))
    for run in found:
        state = Text(run.decision or run.state, style=TONES.get(run.decision or run.state, ""))
        if run.where:
            state.append(f" {run.where}", style="default not bold")
        what = f"{Path(run.model).name}\n{run.data}" + (f" ({run.task})" if run.task else "")
        table.add_row(f"{run.folder}\n{run.when}", what, state, effect(run), cost(run))
    console.print(table)
    stopped = next((run.folder for run in found if run.state == "interrupted"), None)
    if stopped:
        console.print(Text(f"to go on with an interrupted one: tunesmith run --resume --out {stopped}", style="dim"))


def effect(run: Any) -> str:
    if run.effect is None:
        return ""
    digits = 2 if max(abs(run.effect), *map(abs, run.interval)) > 1 else 3
    low, high = run.interval
    return f"{run.metric} {run.effect:+.{digits}f}\n({low:+.{digits}f} to {high:+.{digits}f})"


def cost(run: Any) -> str:
    if run.total_s is None:
        return ""
    minutes = run.total_s / 60
    time = f"{run.total_s:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{time}\n{run.peak_gib:.1f} GiB" if run.peak_gib is not None else time


def compare(runs: Runs, metric: MetricName = None, out: SavedTo = None, as_json: Json = False) -> None:
    """The tuned models of two or more runs on the cases that all of them held out: paired, with intervals, corrected.

    Example: tunesmith compare runs/first runs/second
    """
    if out is not None and out.exists():
        raise InputError(f"{out} is there already: name another file with --out, or move it away")
    found = part("compared").compare_runs(runs, metric)
    if out is not None:
        part("files").write_json(out, found.facts())
    if as_json:
        show.out(json.dumps(found.facts(), ensure_ascii=False))
    else:
        tell(found)


def tell(found: Any) -> None:
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("", "run", "base", "tuned", "interval", "own verdict"):
        table.add_column(name, overflow="fold")
    for side in found.sides:
        low, high = side.interval
        table.add_row(
            side.letter, side.folder, "" if side.base is None else f"{side.base:.3f}", f"{side.tuned:.3f}",
            f"{low:.3f} to {high:.3f}", Text(side.decision, style=TONES.get(side.decision, "")),
        )  # fmt: skip
    console.print(Text(f"{found.metric} on {found.num_cases} held-out cases that all runs share", style="bold"))
    console.print(table)
    for pair in found.pairs:
        console.print()
        console.print(Text(pair.decision.upper(), style=TONES.get(pair.decision, "")), Text(pair.claim))
        console.print(Text(f"  {pair.how}", style="dim"))
        for case in pair.largest:
            console.print(Text(f"  {case}", style="dim"), overflow="ellipsis", no_wrap=True)
    console.print()
    for note in found.notes:
        console.print(Text(f"note: {note}"))
    if sum(s.is_run for s in found.sides) < 2:
        return
    heading = "what the recipes say differently" if found.differences else "the recipes say the same"
    console.print(Text(heading, style="bold"))
    for key, values in found.differences.items():
        console.print(
            Text(
                f"  {key}: "
                + "  |  ".join(f"{s.letter} {v}" for s, v in zip((s for s in found.sides if s.is_run), values))
            )
        )
