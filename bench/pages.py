"""Makes docs/benchmarks.md and its plots from the dated lines in results/: `python bench/pages.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records

DOCS = records.RESULTS.parents[1] / "docs"
PAGE = "benchmarks.md"
WIDTH, ROW, LEFT = 720, 26, 360  # of a plot, of a bar with its words, where bars begin; in units of the picture
HEAD = """# Benchmarks

Made by `bench/pages.py` from the dated lines in `bench/results/`; not to be edited by hand. `make bench` measures our
side, `make bench-peers` installs the others in environments of their own and runs both sides in turn. A ratio is our
figure against the other's in the same minutes on the same machine, the median of the pairs with its range; above 1 we
are faster. Where the other side is a budget, the ratio says how often our figure fits into it. Figures of another kind
of machine are not comparable, nor are those of a busy one.
"""


def made(folder: Path = records.RESULTS) -> dict[str, str]:
    """Path below docs/ -> text, of the page and its plots."""
    files = {path.name: records.lines(path) for path in sorted(folder.glob("*.jsonl"))}
    found = [(name, line) for name, rows in files.items() for line in rows if line.get("ratios")]
    kinds = sorted({records.kind(line) for _, line in found})
    texts, parts = {}, [HEAD]
    for number, kind in enumerate(kinds, 1):
        mine = [(name, line) for name, line in found if records.kind(line) == kind]
        picture = f"benchmarks/ratios_{number}.svg"
        texts[picture] = plot(latest(mine))
        parts += [f"## {kind}\n", f"![ratios on {kind}]({picture})\n", *table(latest(mine)), *history(mine)]
    parts += ["## Other records\n", "What is no comparison of speed: each line says what was measured.\n"]
    others = [name for name, rows in files.items() if not all(row.get("ratios") for row in rows)]
    parts += [f"- `bench/results/{name}`" for name in others]
    return {PAGE: "\n".join(parts) + "\n", **texts}


def latest(mine: Sequence[tuple[str, Any]]) -> list[tuple[str, str, Any, dict[str, Any]]]:
    """(file, what was compared, its line, its ratio) of the last line of each job."""
    last = {(name, line["job"], what): (line, r) for name, line in mine for what, r in line["ratios"].items()}
    return [(name, what, line, r) for (name, _, what), (line, r) in last.items()]


def table(rows: Sequence[tuple[str, str, Any, dict[str, Any]]]) -> list[str]:
    found = ["| job | against | ours | the other | ratio | pairs | date | versions |", "| --- " * 8 + "|"]
    for _, what, line, r in rows:
        low, high = r["range"]
        used = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
        found.append(
            f"| {line['job']} | {what} | {r['ours']:.4g} {r['unit']} | {r['theirs']:.4g} | **{r['ratio']:.2f}** "
            f"({low:.2f} to {high:.2f}) | {r['pairs']} | {line['date']} | {used} |"
        )
    return [*found, ""]


def history(mine: Sequence[tuple[str, Any]]) -> list[str]:
    """Of what was measured more than once."""
    found: dict[tuple[str, str], list[str]] = {}
    for _, line in mine:
        for what, r in line["ratios"].items():
            found.setdefault((line["job"], what), []).append(f"{r['ratio']:.2f} ({line['date']})")
    rows = [f"- {job}, {what}: {', '.join(said)}" for (job, what), said in found.items() if len(said) > 1]
    return ["Ratios over time:\n", *rows, ""] if rows else []


def plot(rows: Sequence[tuple[str, str, Any, dict[str, Any]]]) -> str:
    """A bar for each ratio, its range as a thin line, and the line where both sides are equal."""
    most = max([1.0, *(r["range"][1] for *_, r in rows)])
    height = ROW * (len(rows) + 1)

    def at(ratio: float) -> float:
        return LEFT + (WIDTH - LEFT - 60) * ratio / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (_, what, line, r) in enumerate(rows):
        y, colour = ROW * number + 6, "#2a6f4e" if r["ratio"] >= 1 else "#b3402a"
        low, high = r["range"]
        parts += [
            f'<text x="{LEFT - 6}" y="{y + 5}" text-anchor="end">{escape(line["job"])}</text>',
            f'<text x="{LEFT - 6}" y="{y + 16}" text-anchor="end" fill="#777777" font-size="9">{escape(what)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{at(r["ratio"]) - LEFT:.1f}" height="12" fill="{colour}"/>',
            f'<line x1="{at(low):.1f}" y1="{y + 15}" x2="{at(high):.1f}" y2="{y + 15}" stroke="{colour}"/>',
            f'<text x="{at(r["ratio"]) + 4:.1f}" y="{y + 10}">{r["ratio"]:.2f}</text>',
        ]
    parts.append(
        f'<line x1="{at(1):.1f}" y1="0" x2="{at(1):.1f}" y2="{height - ROW + 6}" stroke="#222" stroke-dasharray="3 3"/>'
    )
    parts.append(f'<text x="{at(1):.1f}" y="{height - 6}" text-anchor="middle">1 = equal</text>')
    return "\n".join([*parts, "</svg>\n"])


def write() -> None:
    wanted = made()
    (DOCS / "benchmarks").mkdir(exist_ok=True)
    for old in (DOCS / "benchmarks").glob("*.svg"):
        old.unlink()
    for name, text in wanted.items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
