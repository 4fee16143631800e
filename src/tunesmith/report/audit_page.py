"""What `tunesmith audit` found: a page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts
from tunesmith.report.data_view import counted
from tunesmith.report.html import make_environment

LINE, NAMES, VALUES = 20, 150, 60  # height of a bar; room for names and for values, in units of the picture
MOST_BARS = 30
BASE, TOP, LEFT = 130, 8, 10


def page(found: Mapping[str, Any], name: str) -> str:
    """`found`: the content of audit.json, with its findings."""
    findings = found["findings"]
    shares = [(one["kind"].replace("_", " "), one["share"], share(one["share"])) for one in findings]
    labels = sorted(((label, num["train"]) for label, num in found["classes"].items()), key=lambda item: -item[1])
    return make_environment().get_template("audit.html").render(
        name=name, found=found, findings=findings, share=share, counted=counted(found),
        notices=found["understood"]["notices"],
        shares=bars(shares, "share of rows per finding") if shares else None,
        labels=by_rows(dict(labels), "training rows per label"),
        languages=[(side, by_rows(counts, f"languages of {side}")) for side, counts in found["languages"].items()],
        lengths=histogram(found["tokens"]["histogram"]),
    )  # fmt: skip


def share(value: float) -> str:
    return f"{100 * value:.1f}%" if value >= 0.001 else f"{100 * value:.3f}%"


def by_rows(counts: Mapping[str, int], label: str) -> Markup | None:
    return bars([(name, float(num), f"{num:,}") for name, num in counts.items()], label)


def bars(rows: Sequence[tuple[str, float, str]], label: str) -> Markup | None:
    """(name, value, value in words), one bar each; of many the last are left out, which is said. None without rows."""
    shown, most = rows[:MOST_BARS], max((value for _, value, _ in rows), default=0.0)
    if not shown or most <= 0:
        return None
    parts = []
    for number, (name, value, words) in enumerate(shown):
        y = number * LINE
        wide = max(1.0, (charts.WIDTH - NAMES - VALUES) * value / most)
        parts.append(charts.text(NAMES - 8, y + 14, name if len(name) < 26 else f"{name[:24]}…", "tick", "end"))
        parts.append(f'<rect x="{NAMES}" y="{y + 4}" width="{wide:.1f}" height="{LINE - 8}" rx="2" class="spent"/>')
        parts.append(charts.text(NAMES + wide + 6, y + 14, words, "tick", "start"))
    if len(rows) > len(shown):
        more = f"{len(rows) - len(shown)} more in audit.json"
        parts.append(charts.text(NAMES, len(shown) * LINE + 14, more, "tick", "start"))
    return charts.svg((len(shown) + (len(rows) > len(shown))) * LINE, parts, label, "curve")


def histogram(found: Mapping[str, Sequence[float]]) -> Markup | None:
    """Columns over the lengths of `edges`, each as high as its count."""
    edges, counts = found["edges"], found["counts"]
    if not counts or max(counts) == 0:
        return None
    wide = (charts.WIDTH - 2 * LEFT) / len(counts)
    parts = [charts.line(LEFT, BASE, charts.WIDTH - LEFT, BASE, "axis")]
    for number, count in enumerate(counts):
        high = (BASE - TOP) * count / max(counts)
        x = LEFT + number * wide
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{BASE - high:.1f}" width="{wide - 2:.1f}" height="{high:.1f}" class="spent"/>'
        )
    for number in (0, len(counts) // 2, len(counts)):
        anchor = "start" if number == 0 else "end" if number == len(counts) else "middle"
        parts.append(charts.text(LEFT + number * wide, BASE + 18, charts.short(edges[number]), "tick", anchor))
    return charts.svg(BASE + 24, parts, "training examples by their length in tokens", "curve")
