"""What a person sees while a run is on: stages, progress with the time left, and training as it goes.

In a terminal the last lines are alive: drawn anew four times a second by a thread, so that time goes on where a step
does not. Anywhere else there are plain lines, and fewer of them the longer it takes. All of it goes to standard error.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith.cli import understood

EVERY_S = 2.0  # between plain lines at first; later a twentieth of the time so far, so that a long log stays readable
EVERY_FRAC = 0.05
SPARKS = "▁▂▃▄▅▆▇█"
NUM_SPARKS = 20
UPDATES = "updates"


@dataclass(slots=True)
class Step:
    """One long step: where it began, where it is, and what was learned in it."""

    text: str
    total: int
    began: float
    first: int  # done when it began: a resume begins half way
    done: int
    facts: Mapping[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def left_s(self, now: float) -> float | None:
        """Seconds, at the pace so far; None before there is a pace."""
        made = self.done - self.first
        return (now - self.began) / made * (self.total - self.done) if made > 0 else None


class Screen:
    """`with Screen() as tell:` gives the terminal back whatever happens inside."""

    def __init__(
        self, *, quiet: bool = False, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self.is_live = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet
        self.clock = clock
        self.began = self.stage_began = self.last = clock()
        self.name = ""
        self.now: Step | None = None
        self.live: Live | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """The living lines are taken away."""
        self.now, self.name = None, ""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def stage(self, name: str, budget_s: float | None) -> None:
        self.now = None
        budget = "" if budget_s is None else f" (budget {in_time(budget_s)})"
        at = in_time(self.clock() - self.began)
        self.console.print(Text(f"{name}{budget}", style="bold"), Text(f"at {at}", style="dim"))
        self.name, self.stage_began = name, self.clock()
        self._draw()

    def step(self, done: int, total: int, text: str) -> None:
        self._move(done, total, text)
        self._show()

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        step = self._move(update, num_updates, UPDATES)
        step.facts = facts
        step.losses.append(facts["loss"])
        self._show()

    def say(self, text: str) -> None:
        style = "bold yellow" if text.startswith(("WARNING", "stopping")) else ""
        self.console.print(Text(f"  {text}", style=style), soft_wrap=not self.is_live)

    def understood(self, facts: Mapping[str, Any]) -> None:
        understood.show(facts, self.console)

    def _move(self, done: int, total: int, text: str) -> Step:
        step = self.now
        if step is None or (step.text, step.total) != (text, total) or done < step.done:
            self.now = step = Step(text, total, self.clock(), done, done)
            self.last = self.clock()
        step.done = done
        return step

    def _show(self) -> None:
        step = self.now
        assert step is not None
        now = self.clock()
        if step.done >= step.total:
            self.console.print(Text(self._in_a_line(step, now, ended=True)), soft_wrap=not self.is_live)
            self.now = None
            if not self.name:
                self.close()
        elif self.is_live:
            self._draw()
        elif now - self.last >= max(EVERY_S, EVERY_FRAC * (now - step.began)):
            self.last = now
            self.console.print(Text(self._in_a_line(step, now, ended=False)), soft_wrap=True)

    def _draw(self) -> None:
        if self.is_live and self.live is None:
            self.live = Live(
                get_renderable=self.render, console=self.console, transient=True, redirect_stdout=False,
                vertical_overflow="crop",
            )  # fmt: skip
            self.live.start()

    def _in_a_line(self, step: Step, now: float, *, ended: bool) -> str:
        parts = [f"  {step.done}/{step.total}  {step.text}"]
        if step.losses and ended:
            parts += [f"loss {step.losses[0]:.3f} → {step.losses[-1]:.3f}", rate(step.facts)]
        elif step.losses:
            parts += [*measured(step.facts), rate(step.facts), memory(step.facts)]
        left = step.left_s(now)
        if ended:
            parts.append(in_time(now - step.began))
        elif left is not None:
            parts.append(f"{in_time(left)} left")
        return "  ".join(parts)

    def render(self) -> RenderableType:
        """The living lines, at most three."""
        now, step = self.clock(), self.now
        if step is None:
            return Text(f"  {self.name}: {in_time(now - self.stage_began)}", style="dim") if self.name else Text("")
        left = step.left_s(now)
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        grid.add_column(no_wrap=True, justify="right", min_width=11)
        clock = f"{in_time(now - step.began)} so far" if left is None else f"{in_time(left)} left"
        bar = ProgressBar(total=max(1, step.total), completed=step.done)
        grid.add_row(f"  {step.text}", bar, f"{step.done}/{step.total}", clock)
        if not step.losses:
            return grid
        loss, *others = measured(step.facts)
        curve = sparkline(step.losses) if (self.console.encoding or "").startswith("utf") else ""
        first = Text.assemble("  ", (loss, "bold"), " ", (curve, "cyan"), "  ", "   ".join(others))
        second = Text(f"  {rate(step.facts)}   {memory(step.facts)}   {in_time(now - step.began)} so far")
        for line in (first, second):
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(grid, first, second)


def measured(facts: Mapping[str, float]) -> list[str]:
    if "reward" in facts:
        found = [f"reward {facts['reward']:.3f}", f"{facts['reply_tokens']:.0f} tokens a reply"]
        how_far = {"kl_nats": "KL {:.4f} nats", "margin_nats": "margin {:.3f} nats"}
        return [*found, *(text.format(facts[name]) for name, text in how_far.items() if name in facts)]
    return [f"loss {facts['loss']:.3f}", f"lr {facts['lr']:.1e}", f"gradient norm {facts['grad_norm']:.2f}"]


def rate(facts: Mapping[str, float]) -> str:
    return f"{facts['tokens_per_s']:,.0f} tokens/s"


def memory(facts: Mapping[str, float]) -> str:
    return f"memory {facts['peak_gib']:.1f} GiB"


def in_time(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def sparkline(values: Sequence[float], most: int = NUM_SPARKS) -> str:
    """All values so far in at most `most` blocks, each the mean of its share; the lowest block is the lowest mean."""
    num = min(most, len(values))
    cuts = [round(i * len(values) / num) for i in range(num + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, span = min(means), max(means) - min(means)
    return "".join(SPARKS[round((m - low) / span * (len(SPARKS) - 1)) if span > 0 else 0] for m in means)
