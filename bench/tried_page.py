"""docs/methods/tried.md, from bench/results/tried.jsonl and the table of docs/methods/index.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tried_cells import CELLS, JOBS

FOLDER = Path(__file__).parents[1] / "docs" / "methods"
PAGE, INDEX = FOLDER / "tried.md", FOLDER / "index.md"
ROW = re.compile(r"^\| \[([^\]]+)\]\(([\w-]+\.md)\) \| `[^`]+` \| ([^|]+) \| ([^|]+) \| [^|]* \|$", re.M)
Row = Mapping[str, Any]
ELSEWHERE = {  # methods that another job tried
    "continued pre-training": "plays, +0.349 [+0.263, +0.466] bits per byte against the base: [results](../results.md)",
    "class head": "[results](../results.md#an-encoder-with-a-class-head), and all rows of an encoder here",
    "going on from a run": "[its page](iterations.md#one-trial)",
    "preferences": "[results](../results.md)",
    "feedback": "[results](../results.md)",
    "reward model": "[results](../results.md)",
    "rewards": "[results](../results.md)",
    "PPO": "[results](../results.md)",
}
HEAD = """\
# Every supervised method, tried once

Made by `bench/tried.py` from `bench/results/tried.jsonl`: each method once on a real model with real rows, beside the
plain run of its kind, which has the same rows, seed and updates. **Effect** is tuned with the method minus tuned
without it, on the same held-out cases, paired, with its 95% interval (`tunesmith compare`). One seed, one strength, few
updates, and nothing corrected for the number of rows: about one in twenty would be called better or worse by chance. So
a line says what one run gave, and that the method runs to its end on a real model; it is no claim about the method, and
what a method is good for on larger models or other rows is not known from it.
"""


def newest(lines: Sequence[Row]) -> dict[str, Row]:
    """By cell, of those that are still planned as they were run."""
    return {r["cell"]: r for r in lines if r["cell"] in CELLS and r["settings"] == list(CELLS[r["cell"]].settings)}


def interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"


def own(row: Row) -> str:
    one = row["own"]
    return f"{one['metric']} {one['base']:.3f} → {one['tuned']:.3f}, {interval(one['effect'], one['interval'])}"


def effect(row: Row) -> str:
    """Against the plain run."""
    if "beside" not in row:
        return "against the base alone"
    b = row["beside"]
    if not b["num_better"] + b["num_worse"]:
        return "no case comes out otherwise"
    return f"{interval(b['effect'], b['interval'])}, {b['decision']}"


def costs(row: Row) -> str:
    return f"{row['seconds']:.0f} s, {row['peak_gib']:.1f} GiB"


def table(*rows: Sequence[str]) -> list[str]:
    head, *rest = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)]


def of_methods(found: Mapping[str, Row]) -> Iterator[Sequence[str]]:
    for name, page, code, tests in ROW.findall(INDEX.read_text(encoding="utf-8")):
        cells = [row for row in found.values() if row["method"] == name]
        for row in cells:
            said = ", ".join(s for s in CELLS[row["cell"]].sets).replace("|", "/")
            yield (f"[{name}]({page})", code, tests, f"`{said or 'as its page says'}`", row["against"] or "the base",
                   effect(row), own(row), costs(row))  # fmt: skip
        if not cells:
            yield f"[{name}]({page})", code, tests, "", "", ELSEWHERE.get(name, "not tried"), "", ""


def of_text(found: Mapping[str, Row]) -> Iterator[Sequence[str]]:
    for row in found.values():
        if (text := row.get("general_text")) is not None:
            means = (f"{text[key]:.3f}" for key in ("base", "plain", "tuned"))
            yield row["cell"], row["against"], *means, interval(text["saved"], text["interval"]), str(text["num_texts"])


def of_others(found: Mapping[str, Row]) -> Iterator[Sequence[str]]:
    """What is no method of training, and is held against a plain run all the same."""
    for row in found.values():
        if not row["method"] and row["against"]:
            yield row["cell"], row["against"], effect(row), own(row), costs(row)


def of_plain(found: Mapping[str, Row]) -> Iterator[Sequence[str]]:
    names = {cell.against for cell in CELLS.values()}
    for row in found.values():
        if row["cell"] in names:
            yield row["cell"], own(row), str(row["updates"]), costs(row)


def machines(found: Mapping[str, Row]) -> str:
    dates = sorted({row["date"] for row in found.values()})
    kinds = sorted({f"{row['machine']['processor']}, threads: {row['threads']}" for row in found.values()})
    return f"{' and '.join(dates)}; {' and '.join(kinds)}; beside other work, so the seconds say little."


def page(lines: Sequence[Row]) -> str:
    found = newest(lines)
    tried = ("method", "code", "tests", "what was said", "held against", "effect", "its own run, base to tuned", "cost")
    forgot = ("run", "held against", "base", "plain", "with the method", "saved", "texts")
    said = [
        HEAD,
        "The jobs:",
        "",
        *(f"- **{name}**: {job.what}" for name, job in JOBS.items()),
        "",
        *table(tried, *of_methods(found)),
        "",
        "## The plain runs",
        "",
        *table(("run", "base to tuned", "updates", "cost"), *of_plain(found)),
        "",
        "## Settings that a search chose",
        "",
        "Four settings of rate and rank tried on dev (`tunesmith sweep`), the best of them run, against the run at the",
        "rate that `train.lr: auto` takes. The cost is that of the run alone.",
        "",
        *table(("run", "held against", "effect", "its own run, base to tuned", "cost"), *of_others(found)),
        "",
        "## What was forgotten",
        "",
        "Bits per byte of the guard's ordinary texts, less is better; **saved** is the plain run's minus this one's,",
        "paired over texts.",
        "",
        *table(forgot, *of_text(found)),
        "",
        machines(found),
    ]
    return "\n".join(said) + "\n"


def write(lines: Sequence[Row]) -> None:
    PAGE.write_text(page(lines), encoding="utf-8")
