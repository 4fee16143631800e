"""What `tunesmith sweep` found: a page that needs no network, and the same in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts
from tunesmith.report.card import plain_text
from tunesmith.report.html import make_environment
from tunesmith.report.words import number

WORDS = {
    "tried": "to the end", "pruned": "ended early: behind the others", "diverged": "ended: no number any more",
    "refused": "refused by the plan", "out of time": "ended: no time left", "no memory": "ended: no memory left",
}  # fmt: skip
LEFT, RIGHT, TOP, BASE = 48, charts.WIDTH - 12, 10, 150
ROOM = 0.14  # of the axis, that the words below a place need


def measured(row: Mapping[str, Any]) -> str:
    """What a trial came to, in words."""
    said = f"loss on dev {row['loss']:.4f}"
    return said if row["score"] is None else f"score on dev {row['score']:.4f}, {said}"


def ranked(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The best first; those that did not come to their end behind them, in their order."""
    return sorted(facts["rows"], key=lambda r: (r["value"] is None, r["value"] or 0.0, r["number"]))


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know, sentence by sentence."""
    rows, num_dev = facts["rows"], facts["num_dev"]
    ended = sum(r["value"] is not None for r in rows)
    on = "loss (nats per token)" if facts["on"] == "loss" else facts["metric"]
    said = [f"{len(rows)} settings were tried in {facts['seconds'] / 60:.1f} minutes, {ended} of them to the end."]
    if facts["best"] is not None:
        said.append(f"Setting {facts['best']} has the best {on} on {num_dev} dev cases; {facts['recipe']} holds it.")
        said.append(
            "Being the best of many on the same dev cases, it looks better there than it is. No test case was seen: "
            "the verdict of a run of that recipe says what the choice is worth."
        )
    if num_dev < 100:
        said.append(
            f"{num_dev} dev cases hardly tell close settings apart; evals.max_dev_cases and data.dev_frac give more."
        )
    return said


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(facts: Mapping[str, Any]) -> str:
    keys = list(facts["space"])
    head = ["setting", *keys, *(["score"] if facts["on"] == "score" else []), "loss", "updates", "seconds", "came"]
    lines = ["# Settings tried on dev", "", *summary(facts), "", f"| {' | '.join(head)} |"]
    lines.append(f"| {' | '.join('---' for _ in head)} |")
    for row in ranked(facts):
        score = [number(row["score"])] if facts["on"] == "score" else []
        came = WORDS[row["state"]] + (f" ({row['why']})" if row["why"] else "")
        values = [shown(row["values"][k]) for k in keys]
        cells = [str(row["number"]), *values, *score, number(row["loss"]), str(row["updates"]),
                 f"{row['seconds']:.0f}", came]  # fmt: skip
        lines.append(f"| {' | '.join(plain_text(c) for c in cells)} |")
    return "\n".join([*lines, ""])


def page(facts: Mapping[str, Any], name: str) -> str:
    template = make_environment().get_template("sweep.html")
    keys = list(facts["space"])
    figures = [(key, scatter(facts, key)) for key in keys]
    return template.render(
        name=name, facts=facts, keys=keys, rows=ranked(facts), said=summary(facts), state_words=WORDS, shown=shown,
        figures=[(key, svg) for key, svg in figures if svg], curves=curves(facts["rows"], facts["best"]),
    )  # fmt: skip


def place(values: Sequence[float], *, is_log: bool) -> tuple[list[float], float, float]:
    """Positions from 0 to 1, and the ends of the axis."""
    at = [math.log10(v) for v in values] if is_log else list(values)
    low, high = min(at), max(at)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    return [(v - low) / (high - low) for v in at], low, high


def frame(values: Sequence[float]) -> tuple[list[str], list[float]]:
    """The axis of the loss with its grid, and the height of each value."""
    heights, low, high = place(values, is_log=False)
    parts = []
    for tick in charts.ticks(low, high):
        y = BASE - (tick - low) / (high - low) * (BASE - TOP)
        parts += [
            charts.line(LEFT, y, RIGHT, y, "grid"),
            charts.text(LEFT - 6, y + 4, charts.short(tick), "tick", "end"),
        ]
    return parts, [BASE - h * (BASE - TOP) for h in heights]


def apart(places: Sequence[float]) -> list[float]:
    """The last of them and, from the first on, those with room for words between."""
    found: list[float] = []
    for at in places[:-1]:
        if places[-1] - at >= ROOM and (not found or at - found[-1] >= ROOM):
            found.append(at)
    return [*found, *places[-1:]]


def scatter(facts: Mapping[str, Any], key: str) -> Markup | None:
    """What a key was set to (across) against what came of it on dev (up); the best is filled."""
    rows = [r for r in facts["rows"] if r["value"] is not None]
    if not rows:
        return None
    values = [r["score"] if facts["on"] == "score" else r["loss"] for r in rows]
    said = [r["values"][key] for r in rows]
    is_number = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in said)
    is_log = key in facts["by_factors"] or (is_number and min(said) > 0 and max(said) / min(said) >= 8)
    names = [] if is_number else sorted({str(v) for v in said})
    numbers = [float(v) if is_number else float(names.index(str(v))) for v in said]
    across, _, _ = place(numbers, is_log=is_log)
    parts, heights = frame(values)
    by_place = dict(sorted(zip(across, numbers)))
    for at in apart(list(by_place)):
        words = charts.short(by_place[at]) if is_number else names[int(by_place[at])]
        parts.append(charts.text(LEFT + at * (RIGHT - LEFT), BASE + 18, words, "tick"))
    for row, x, y in zip(rows, across, heights):
        css = "dot main" if row["number"] == facts["best"] else "mark"
        parts.append(f'<circle cx="{LEFT + x * (RIGHT - LEFT):.1f}" cy="{y:.1f}" r="4" class="{css}"/>')
    return charts.svg(BASE + 24, parts, f"{key} against {facts['on']} on dev, {len(rows)} settings", "curve")


def curves(rows: Sequence[Mapping[str, Any]], best: int | None) -> Markup | None:
    """Loss on dev of every setting over the share of its updates; the best is thick."""
    drawn = [(r, [(u / r["num_updates"], loss) for u, loss in r["curve"]]) for r in rows if len(r["curve"]) > 1]
    if not drawn:
        return None
    parts, heights = frame([y for _, points in drawn for _, y in points])
    at = iter(heights)
    for row, points in drawn:
        line = [(LEFT + x * (RIGHT - LEFT), next(at)) for x, _ in points]
        parts.append(charts.path(line, "line" if row["number"] == best else "axis"))
    parts += [charts.text(x, BASE + 18, words, "tick", anchor)
              for x, words, anchor in ((LEFT, "start", "start"), (RIGHT, "end of its updates", "end"))]  # fmt: skip
    return charts.svg(BASE + 24, parts, f"Loss on dev of {len(drawn)} settings while they were trained", "curve")
