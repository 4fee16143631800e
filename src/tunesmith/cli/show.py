"""What a person sees in the terminal: stages, progress with time left, the verdict."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

EVERY_S = 2.0  # between lines of progress where the output is not a terminal

TONE = {
    "better": "bold green",
    "worse": "bold red",
    "no relevant difference": "bold yellow",
    "too few cases": "bold yellow",
}


class Screen:
    """Prints to standard error, so that --json leaves standard output to the program."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.began = time.monotonic()
        self.last = 0.0
        self.open_line = False

    def stage(self, name: str, budget_s: float | None) -> None:
        self._end_line()
        budget = "" if budget_s is None else f" (budget {budget_s:.0f} s)"
        self.console.print(
            Text(f"{name}{budget}", style="bold"), Text(f"at {time.monotonic() - self.began:.0f} s", style="dim")
        )
        self.stage_began = time.monotonic()

    def step(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if done < total and now - self.last < (0.2 if self.console.is_terminal else EVERY_S):
            return
        self.last = now
        line = f"  {done}/{total}  {text}"
        if self.console.is_terminal:
            self.console.print(Text(line.ljust(78)[: self.console.width - 1]), end="\r")
            self.open_line = True
            if done >= total:
                self._end_line()
        else:
            self.console.print(Text(line))

    def say(self, text: str) -> None:
        self._end_line()
        self.console.print(Text(f"  {text}"))

    def _end_line(self) -> None:
        if self.open_line:
            self.console.print()
            self.open_line = False


def verdict(found: dict[str, Any], report: str) -> None:
    """The answer, on standard output."""
    console = Console(highlight=False)
    console.print()
    console.print(Text(found["decision"].upper(), style=TONE[found["decision"]]), Text(found["claim"]))
    table = Table(show_header=True, header_style="bold", box=None, padding=(0, 2))
    for name in ("", "base", "tuned", "effect", "interval"):
        table.add_column(name, justify="left" if not name else "right")
    low, high = found["interval"]
    table.add_row(
        found["metric"],
        *(f"{found[k]:.3f}" for k in ("base", "tuned")),
        f"{found['effect']:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
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
    for note in found["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"report: {report}", style="bold"))


def error(text: str) -> None:
    Console(stderr=True, highlight=False).print(Text(f"error: {text}", style="red"), soft_wrap=True)


def out(text: str) -> None:
    sys.stdout.write(text + "\n")
