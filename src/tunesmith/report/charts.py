"""Small SVG pictures drawn from numbers. Colours are the page's CSS classes, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from tunesmith.report.words import clean

WIDTH = 400
Points = Sequence[tuple[float, float]]


def short(value: float) -> str:
    """An axis number in few characters: 1,200 -> 1.2k, 0.0002 -> 2e-4."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values inside [low, high], `about` of them, on a step of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def text(x: float, y: float, words: str, css: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(clean(words))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def svg(height: float, parts: Sequence[str], label: str, css: str) -> Markup:
    said = escape(clean(label))
    head = f'<svg class="{css}" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{said}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def effect_plot(
    effect: float, interval: tuple[float, float], margin: float | None, tone: str, label: str
) -> Markup | None:
    """The effect and its interval around zero, the margin that matters shaded. None where a number is not finite."""
    values = [effect, *interval, margin or 0.0]
    if not all(math.isfinite(v) for v in values):
        return None
    reach = max(abs(v) for v in values) * 1.15 or 1.0
    low, high = (
        min(-0.25 * reach, min(values) * 1.15, -1.6 * (margin or 0)),
        max(0.25 * reach, max(values) * 1.15, 1.6 * (margin or 0)),
    )
    left, right, axis = 14, WIDTH - 14, 74

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    if margin:
        x, wide = at(-margin), at(margin) - at(-margin)
        parts.append(f'<rect x="{x:.1f}" y="14" width="{wide:.1f}" height="{axis - 14}" class="margin"/>')
    parts += [line(left, axis, right, axis, "axis"), line(at(0), 8, at(0), axis + 5, "zero")]
    for tick in ticks(low, high, 5):
        parts.append(line(at(tick), axis, at(tick), axis + 4, "axis"))
        parts.append(text(at(tick), axis + 18, ("+" if tick > 0 else "") + short(tick), "tick"))
    a, b, middle = at(interval[0]), at(interval[1]), at(effect)
    parts += [line(a, 44, b, 44, f"bar {tone}"), line(a, 36, a, 52, f"cap {tone}"), line(b, 36, b, 52, f"cap {tone}")]
    parts.append(f'<circle cx="{middle:.1f}" cy="44" r="6" class="dot {tone}"/>')
    parts.append(
        text(left, axis + 36, "◂ tuned is worse", "side", "start")
        + text(right, axis + 36, "tuned is better ▸", "side", "end")
    )
    return svg(axis + 42, parts, label, "effect")


def scale(values: Sequence[float], intervals: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    """A common scale from zero (or the lowest value under it) to the highest value; 1 where all are shares near it."""
    every = [v for v in values if math.isfinite(v)] + [v for i in intervals if i for v in i if math.isfinite(v)]
    high = max([*every, 1e-9])
    return min([0.0, *every]), 1.0 if 0.4 < high <= 1.0 else high


def strip(value: float, interval: tuple[float, float] | None, of: tuple[float, float], css: str, label: str) -> Markup:
    """A value and its interval on a scale, one line high."""
    low, high = of

    def at(v: float) -> float:
        return 4 + (min(max(v, low), high) - low) / (high - low) * 152

    parts = [line(4, 9, 156, 9, "rail")]
    if interval and all(math.isfinite(v) for v in interval):
        parts.append(line(at(interval[0]), 9, at(interval[1]), 9, f"bar {css}"))
    parts.append(f'<circle cx="{at(value):.1f}" cy="9" r="3.6" class="dot {css}"/>')
    return Markup(
        f'<svg class="strip" viewBox="0 0 160 18" role="img" aria-label="{escape(clean(label))}">{"".join(parts)}</svg>'
    )


def thin(points: Points, most: int = 600) -> tuple[list[tuple[float, float]], int]:
    """At most `most` points, each the mean of `every` neighbours, and `every`. Drawn means are said to be means."""
    every = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + every] for i in range(0, len(points), every)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups], every


def path(points: Points, css: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" class="{css}"/>'


def curve(points: Points, marks: Points, label: str, *, log: bool = False, zero: bool = False) -> Markup | None:
    """A line over updates, and marked points (evaluations on dev) beside it. None without a finite point."""
    points = [p for p in points if math.isfinite(p[1]) and (p[1] > 0 or not log)]
    marks = [p for p in marks if math.isfinite(p[1]) and (p[1] > 0 or not log)]
    every = [*points, *marks]
    if not every:
        return None
    ys = [math.log10(y) if log else y for _, y in every]
    bottom, top = (min(0.0, *ys) if zero else min(ys)), max(ys)
    pad = (top - bottom) * 0.06 or abs(top) * 0.1 or 1.0
    bottom, top = (bottom if zero else bottom - pad), top + pad
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    left, right, base = 48, WIDTH - 10, 150

    def at(point: tuple[float, float]) -> tuple[float, float]:
        y = math.log10(point[1]) if log else point[1]
        across = (point[0] - first) / (last - first) if last > first else 0.5
        return left + across * (right - left), base - (y - bottom) / (top - bottom) * (base - 10)

    parts = []
    for tick in ticks(bottom, top, 4):
        y = base - (tick - bottom) / (top - bottom) * (base - 10)
        parts.append(
            line(left, y, right, y, "grid") + text(left - 6, y + 4, short(10**tick if log else tick), "tick", "end")
        )
    for tick in sorted(
        {first, last, *(t for t in ticks(first, last, 4) if first + (last - first) * 0.1 < t < last * 0.9)}
    ):
        x = at((tick, points[0][1] if points else marks[0][1]))[0]
        anchor = "start" if tick == first and last > first else "end" if tick == last and last > first else "middle"
        parts.append(text(x, base + 18, short(tick), "tick", anchor))
    drawn = [at(p) for p in points]
    parts.append(path(drawn, "line"))
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="mark"/>' for x, y in map(at, marks)]
    if len(drawn) == 1:
        parts.append(f'<circle cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3" class="dot even"/>')
    return svg(base + 24, parts, label, "curve")


def budget_bar(spent: float, budget: float | None, most: float, label: str) -> Markup:
    """Time spent as a bar, the budget as a mark, both on the scale of the longest of them all."""
    wide = 152 * spent / most if most else 0.0
    css = "over" if budget is not None and spent > budget else "within"
    parts = [
        line(4, 9, 156, 9, "rail"),
        f'<rect x="4" y="5" width="{max(wide, 1):.1f}" height="8" rx="2" class="spent {css}"/>',
    ]
    if budget is not None and most:
        x = 4 + 152 * budget / most
        parts.append(line(x, 1, x, 17, "limit"))
    return Markup(
        f'<svg class="strip" viewBox="0 0 160 18" role="img" aria-label="{escape(clean(label))}">{"".join(parts)}</svg>'
    )


LEFT, BASE, SIDE = 48, 190, 180  # of a square of two shares


def square(said: Sequence[str]) -> list[str]:
    """Axes from 0 to 100% both ways, and beside them, from the bottom up, what they are."""
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = LEFT + tick * SIDE, BASE - tick * SIDE
        parts += [line(LEFT, y, LEFT + SIDE, y, "grid"), text(LEFT - 6, y + 4, f"{100 * tick:.0f}%", "tick", "end")]
        parts.append(text(x, BASE + 18, f"{100 * tick:.0f}%", "tick"))
    return parts + [text(LEFT + SIDE + 14, BASE - 16 * k, words, "side", "start") for k, words in enumerate(said)]


def reliability(points: Sequence[tuple[float, float, int]], label: str) -> Markup:
    """Said probability (across) against the share that was right (up); a point is (said, right, cases)."""
    most = max(num for _, _, num in points)
    parts = square(["across: probability said", "up: share that was right", "larger dot: more cases"])
    parts.append(line(LEFT, BASE, LEFT + SIDE, BASE - SIDE, "zero"))
    for said, right, num in points:
        radius = 3 + 5 * (num / most) ** 0.5  # the area follows the number of cases
        x, y = LEFT + said * SIDE, BASE - right * SIDE
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot main"/>')
    return svg(BASE + 24, parts, label, "curve")


def abstention(points: Points, label: str) -> Markup:
    """Share of cases that are answered (across) against the share of these that is right (up)."""
    drawn = [(LEFT + answered * SIDE, BASE - right * SIDE) for answered, right in sorted(points)]
    parts = [*square(["across: share answered", "up: share of these right"]), path(drawn, "line")]
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="dot main"/>' for x, y in drawn]
    return svg(BASE + 24, parts, label, "curve")


def trade_off(points: Sequence[tuple[float, float, str]], chosen: int, axes: tuple[str, str], label: str) -> Markup:
    """Named points in their order, joined; the chosen one is filled. `axes`: what is across, and what is up."""
    spans = []
    for values in ([x for x, _, _ in points], [y for _, y, _ in points]):
        pad = 0.12 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 1.0
        spans.append((min(values) - pad, max(values) + pad))
    (first, last), (bottom, top) = spans
    right, high = WIDTH - 12, 30

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - first) / (last - first) * (right - LEFT), BASE - (y - bottom) / (top - bottom) * (
            BASE - high
        )

    parts = [
        text(LEFT, 14, f"up: {axes[1]}", "side", "start"),
        text(right, BASE + 34, f"across: {axes[0]}", "side", "end"),
    ]
    for tick in ticks(bottom, top):
        y = at(first, tick)[1]
        parts += [line(LEFT, y, right, y, "grid"), text(LEFT - 6, y + 4, short(tick), "tick", "end")]
    parts += [text(at(tick, bottom)[0], BASE + 18, short(tick), "tick") for tick in ticks(first, last)]
    parts.append(path([at(x, y) for x, y, _ in points], "line"))
    for k, (x, y, name) in enumerate(points):
        across, up = at(x, y)
        parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" class="{"dot main" if k == chosen else "mark"}"/>')
        parts.append(text(across, up - 9, name, "tick"))
    return svg(BASE + 42, parts, label, "curve")
