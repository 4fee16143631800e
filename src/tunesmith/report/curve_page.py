"""What `tunesmith curve` found: a page that needs no network, the same in Markdown, and lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts
from tunesmith.report.html import make_environment
from tunesmith.report.words import number

HEADLINES = {
    "more": "More data would help.", "less": "More data of this kind would do harm.",
    "little": "More data would change little.", "not known": "What more data would bring is not known.",
}  # fmt: skip
LEFT, RIGHT, TOP, BASE = 48, charts.WIDTH - 12, 10, 190
WIDE = 40  # characters of a strip on the screen


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know; the first sentence is the answer."""
    if "twice" not in facts:
        return [f"{len(facts['rungs'])} sizes are done; four are needed to say what more rows bring."]
    said = [answer(facts), shape(facts)]
    largest = facts["rungs"][-1]["rows"]
    if largest < facts["num_rows"]:
        said.append(
            f"The largest size that was trained has {largest:,} of the {facts['num_rows']:,} rows; beyond it all is "
            "read off the law."
        )
    said.append(
        f"Measured on {facts['num_dev']} dev cases, the same for all sizes; no test case was seen. The interval holds "
        "what other cases and another training could change, as long as the law goes on as it went."
    )
    return said


def answer(facts: Mapping[str, Any]) -> str:
    """What twice the data would bring, in one sentence."""
    twice, metric = facts["twice"], facts["metric"]
    low, high = twice["interval"]
    of = f"twice the data ({twice['rows']:,} rows in place of {facts['num_rows']:,})"
    between = f"interval {number(low)} to {number(high)}"
    if twice["decision"] == "not known":
        worst, best = (f"{number(abs(v))} {'better' if v > 0 else 'worse'}" for v in (low, high))
        return f"What {of} would bring is not known: {metric} from {worst} to {best} fits what was measured."
    if twice["decision"] == "little":
        return (
            f"{upper(of)} would change {metric} by less than the {number(twice['matters'])} that matters ({between})."
        )
    better = "lower" if facts["less_is_better"] else "higher"
    worse = "higher" if facts["less_is_better"] else "lower"
    return (
        f"{upper(of)} would bring {metric} from {number(twice['from'])} to {number(twice['to'])}: "
        f"{number(abs(twice['gain']))} {better if twice['decision'] == 'more' else worse} ({between})."
    )


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def shape(facts: Mapping[str, Any]) -> str:
    """The law, and whether the data tell its exponent."""
    law = facts["law"]
    low, high = law["exponents"]
    sign = "−" if law["b"] < 0 else "+"
    said = f"{number(law['a'])} {sign} {number(abs(law['b']))} · n^−{law['c']:.2f} fits best"
    if law["is_determined"]:
        return f"{said}; the exponent is between {low:.2f} and {high:.2f}."
    return f"{said}, but its shape is not determined: exponents from {low:.2f} to {high:.2f} fit as well."


def markdown(facts: Mapping[str, Any]) -> str:
    lines = ["# What more rows bring", "", *summary(facts), ""]
    lines += [f"| rows | {facts['metric']} on dev | interval | updates | seconds |", "| --- | --- | --- | --- | --- |"]
    if facts["base"] is not None:
        lines.append(f"| 0 (base) | {number(facts['base'])} | | | |")
    for row in facts["rungs"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['rows']} | {number(row['value'])} | {number(low)} to {number(high)} | {row['updates']} | "
            f"{row['seconds']:.0f} |"
        )
    return "\n".join([*lines, ""])


def page(facts: Mapping[str, Any], name: str) -> str:
    template = make_environment().get_template("curve.html")
    headline = HEADLINES[facts["twice"]["decision"]] if "twice" in facts else "Too few sizes so far."
    return template.render(name=name, facts=facts, headline=headline, said=summary(facts), figure=picture(facts))


def ends_of(facts: Mapping[str, Any]) -> tuple[float, float]:
    """Of the axis of the score. A band that goes far beyond what was measured does not flatten it."""
    seen = [v for r in facts["rungs"] for v in (r["value"], *r["interval"])]
    seen += [facts["base"]] if facts["base"] is not None else []
    room = (max(seen) - min(seen)) or abs(max(seen)) * 0.1 or 1.0
    band = [v for _, *values in facts.get("band", ()) for v in values]
    low = max(min(seen + band), min(seen) - room)
    high = min(max(seen + band), max(seen) + room)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def picture(facts: Mapping[str, Any]) -> Markup | None:
    """Rows across, by factors; the score up, with intervals; the law goes on to twice the data."""
    rungs, band = facts["rungs"], facts.get("band", ())
    if not rungs:
        return None
    low, high = ends_of(facts)
    first = math.log(rungs[0]["rows"])
    last = math.log(band[-1][0] if band else rungs[-1]["rows"] * 2)

    def x(rows: float) -> float:
        return LEFT + 8 + (math.log(rows) - first) / (last - first) * (RIGHT - LEFT - 16)

    def y(value: float) -> float:
        return BASE - (min(max(value, low), high) - low) / (high - low) * (BASE - TOP)

    parts = []
    for tick in charts.ticks(low, high):
        parts += [charts.line(LEFT, y(tick), RIGHT, y(tick), "grid"),
                  charts.text(LEFT - 6, y(tick) + 4, charts.short(tick), "tick", "end")]  # fmt: skip
    if facts["base"] is not None:
        parts.append(charts.line(LEFT, y(facts["base"]), RIGHT, y(facts["base"]), "zero"))
    for index in (2, 3):
        parts.append(charts.path([(x(row[0]), y(row[index])) for row in band], "axis") if band else "")
    parts.append(charts.path([(x(n), y(v)) for n, v, *_ in band], "line") if band else "")
    for row in rungs:
        at, (a, b) = x(row["rows"]), row["interval"]
        parts += [charts.line(at, y(a), at, y(b), "axis"),
                  f'<circle cx="{at:.1f}" cy="{y(row["value"]):.1f}" r="4" class="dot main"/>',
                  charts.text(at, BASE + 18, charts.short(row["rows"]), "tick")]  # fmt: skip
    if band:
        parts.append(charts.text(x(band[-1][0]), BASE + 18, charts.short(band[-1][0]), "tick"))
    return charts.svg(BASE + 24, parts, f"{facts['metric']} on dev over the number of rows", "curve")


def lines(facts: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Of each size: rows, score, interval and a strip of all of them on one scale; the last is what the law says."""
    low, high = ends_of(facts)
    rows: list[tuple[str, float, Sequence[float] | None]] = []
    if facts["base"] is not None:
        rows.append(("base", facts["base"], None))
    rows += [(f"{r['rows']:,}", r["value"], r["interval"]) for r in facts["rungs"]]
    if "band" in facts:
        n, value, *between = facts["band"][-1]
        rows.append((f"{n:,.0f}?", value, between))
    return [
        (said, number(v), "" if i is None else f"{number(i[0])} to {number(i[1])}", strip(v, i, low, high))
        for said, v, i in rows
    ]


def strip(value: float, interval: Sequence[float] | None, low: float, high: float) -> str:
    def at(v: float) -> int:
        return round((min(max(v, low), high) - low) / (high - low) * (WIDE - 1))

    cells = [" "] * WIDE
    if interval is not None:
        for k in range(at(interval[0]), at(interval[1]) + 1):
            cells[k] = "─"
    cells[at(value)] = "●"
    return "".join(cells)
