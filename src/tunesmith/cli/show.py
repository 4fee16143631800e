"""What a command prints: its result on standard output, errors beside it."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunesmith.cli.screen import Screen

__all__ = ["Screen", "error", "out", "stopped", "verdict"]

TONE = {
    "better": "bold green",
    "worse": "bold red",
    "no relevant difference": "bold yellow",
    "too few cases": "bold yellow",
}


def verdict(found: dict[str, Any], report: str) -> None:
    """The answer, on standard output."""
    console = Console(highlight=False)
    console.print()
    console.print(Text(found["decision"].upper(), style=TONE[found["decision"]]), Text(found["claim"]))
    table = Table(show_header=True, header_style="bold", box=None, padding=(0, 2))
    for name in ("", "base", "tuned", "effect", "interval"):
        table.add_column(name, justify="left" if not name else "right")
    claims = found.get("claims") or [found]
    for claim in claims:
        low, high = claim["interval"]
        own = (
            (f"{round(100 * (1 - claim['level']), 2):g}%: ", f"  {claim['decision']}") if len(claims) > 1 else ("", "")
        )
        table.add_row(
            claim["metric"],
            *(f"{claim[k]:.3f}" for k in ("base", "tuned")),
            f"{claim['effect']:+.3f}",
            f"{own[0]}{low:+.3f} to {high:+.3f}{own[1]}",
        )
    for name, row in found["secondary"].items():
        low, high = row["interval"]
        table.add_row(
            Text(name, style="dim"),
            *(f"{row[k]:.3f}" for k in ("base", "tuned")),
            f"{row['effect']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
        )
    for name, score in found["baselines"].items():
        table.add_row(Text(name, style="dim"), f"{score:.3f}", "", "", "")
    console.print(table)
    console.print(
        f"{found['num_cases']} held-out cases, {found['test']}, p = {found['p']:.2g}, level {found['alpha']:g}"
    )
    if len(claims) > 1:
        shown = ", ".join(f"{c['metric']} {c['p_holm']:.2g}" for c in claims)
        console.print(f"p after Holm's correction for {len(claims)} primary metrics: {shown}")
    for note in found["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"report: {report}", style="bold"))


def gates(found: list[dict[str, Any]]) -> None:
    """What was demanded of the run, and what of it holds."""
    console = Console(highlight=False)
    for gate in found:
        mark = Text("met    ", style=TONE["better"]) if gate["passed"] else Text("not met", style=TONE["worse"])
        console.print(mark, Text(f"{gate['name']}: wanted {gate['wanted']}; found {gate['found']}"))


def error(text: str) -> None:
    Console(stderr=True, highlight=False).print(Text(f"error: {text}", style="red"), soft_wrap=True)


def stopped(text: str) -> None:
    """What was stopped can go on: no error, and the command on a line of its own, whole."""
    Console(stderr=True, highlight=False).print(Text(text, style="yellow"), soft_wrap=True)


def out(text: str) -> None:
    sys.stdout.write(text + "\n")
