"""`tunesmith runs` and its store, `tunesmith compare`: what was run here; runs side by side on the same cases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

HERE = "runs"
Folder = Annotated[Path, typer.Argument(help="Where the runs are; the folders below are looked through.")]
Sort = Annotated[str, typer.Option("--sort", help="when, effect, cost, name or state.")]
Runs = Annotated[list[Path], typer.Argument(help="Two or more folders of runs, or of `tunesmith evaluate`.")]
MetricName = Annotated[str | None, typer.Option("--metric", help="Else what the verdicts are about.")]
Tree = Annotated[bool, typer.Option("--tree", help="Which run goes on from which, as a tree.")]
SavedTo = Annotated[Path | None, typer.Option("--out", help="A JSON file for all of it, case by case.")]
TONES = {
    **show.TONE, "running": "bold cyan", "interrupted": "yellow", "trained": "yellow", "failed": "bold red",
    "unreadable": "bold red",
}  # fmt: skip


class Listing(typer.core.TyperGroup):
    """`tunesmith runs FOLDER` lists; a word that is a command is that command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_command = bool(args) and args[0] in self.commands
        ctx.allow_interspersed_args = not is_command
        return super().parse_args(ctx, [HERE, *args] if is_command else args)


app = typer.Typer(cls=Listing, help="The runs below a folder, and the store that keeps an index of them.")


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context, folder: Folder = Path(HERE), sort: Sort = "when", tree: Tree = False, as_json: Json = False
) -> None:  # fmt: skip
    """The runs below a folder: when, on what, what was found, what it cost, and how far those came that did not end.

    Example: tunesmith runs
    """
    if context.invoked_subcommand is not None:
        return
    found, said = part("recorded").find(folder, sort)
    if said:
        show.stopped(f"note: {said}")
    rows = part("lineage").tree(found) if tree else [("", run) for run in found]
    if as_json:
        show.out(json.dumps([run.facts() for _, run in rows], ensure_ascii=False))
        return
    if not found:
        show.out(f"no runs under {folder}: `tunesmith run --data FILE` makes one")
        return
    if tree:
        grown(rows, part("report.words").clean)
        return
    listed(found, part("report.words").clean)


@app.command("rebuild")
def runs_rebuild(folder: Folder = Path(HERE), as_json: Json = False) -> None:
    """Make the store of a folder anew, from the run folders alone; nothing in them changes.

    Example: tunesmith runs rebuild
    """
    in_step(part("recorded").rebuild(folder), as_json=as_json)


@app.command("check")
def runs_check(folder: Folder = Path(HERE), as_json: Json = False) -> None:
    """Is the store of a folder whole, and in step with the run folders? Exit code 1 where it is broken.

    Example: tunesmith runs check
    """
    in_step(part("recorded").checked(folder), as_json=as_json)


def in_step(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
        return
    clean = part("report.words").clean
    show.out(f"{facts['path']}: whole; rows: {facts['rows']}, runs on disk: {facts['runs']}")
    for path in facts["differ"]:
        show.out(f"  not in step: {clean(path)} (what is on disk counts; `tunesmith runs` brings the row up to date)")


def grown(rows: list[tuple[str, Any]], clean: Any) -> None:
    """One line a run, under the one whose weights or model it began with."""
    console = Console(highlight=False)
    for lead, run in rows:
        state = run.decision or run.state
        what = " ".join(filter(None, (run.data, effect(run).replace("\n", " "))))
        line = Text.assemble(lead, clean(run.folder), "  ", (clean(state), TONES.get(state, "")), clean(f"  {what}"))
        console.print(line, soft_wrap=True)


def listed(found: list[Any], clean: Any) -> None:
    """Names and messages may come from anybody, so they are cleaned of what moves a terminal."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("run", "model, data", "state", "effect", "cost"):
        table.add_column(name, overflow="fold", no_wrap=name in ("effect", "cost"))
    for run in found:
        state = Text(clean(run.decision or run.state), style=TONES.get(run.decision or run.state, ""))
        if run.where:
            state.append(f" {clean(run.where)}", style="default not bold")
        what = clean(f"{Path(run.model).name}\n{run.data}" + (f" ({run.task})" if run.task else ""))
        table.add_row(Text(clean(f"{run.folder}\n{run.when}")), Text(what), state, Text(clean(effect(run))), cost(run))
    console.print(table)
    for is_state, what in (("interrupted", "go on with an interrupted one"), ("trained", "measure a trained one")):
        where = next((run.folder for run in found if run.state == is_state), None)
        if where:
            console.print(Text(clean(f"to {what}: tunesmith run --resume --out {where}"), "dim"))
    most = max(Counter(run.test_digest for run in found if run.test_digest).values(), default=0)
    if most > 1:
        console.print(
            Text(f"{most} of them looked at the same held-out cases: the best one is flattered by that", "dim")
        )


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
