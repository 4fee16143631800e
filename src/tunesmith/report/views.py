"""What each section of the page shows, as records that the template prints. No markup but the charts is made here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts, costs, first_screen, words
from tunesmith.report.data_view import flat


@dataclass(frozen=True, slots=True)
class ScoreRow:
    name: str
    score: str
    interval: str
    tags: str  # of the cases behind the number; "" = its cases are not in the run
    strip: Markup | None
    css: str


@dataclass(frozen=True, slots=True)
class Curve:
    title: str
    svg: Markup
    summary: str
    first: float  # update at the left end
    last: float  # update at the right end
    points: list[list[float]]  # as drawn, for the read-out under the pointer


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def effect_figure(verdict: Mapping[str, Any], tone: str) -> Markup | None:
    pair = verdict["interval"]
    if not all(is_number(v) for v in (*pair, verdict["effect"])):
        return None
    scale = first_screen.points(verdict)
    margin: Any = verdict.get("smallest_that_matters")
    label = (
        f"Effect {words.signed(verdict['effect'])}, {words.confidence(verdict)} interval "
        f"{words.interval(pair, with_sign=True)}; zero means no change"
    )
    effect, low, high = (scale.factor * v for v in (verdict["effect"], *pair))
    return charts.effect_plot(effect, (low, high), scale.factor * margin if is_number(margin) else None, tone, label)


def score_rows(verdict: Mapping[str, Any], *, is_share: bool, with_cases: bool) -> list[ScoreRow]:
    """Base, tuned and the baselines of the primary metric on one scale."""
    plain = [(n, v, None, "", "plain") for n, v in sorted((verdict.get("baselines") or {}).items())]
    sides = [
        (
            title,
            verdict[side],
            verdict.get(f"{side}_interval"),
            (f"{side}-right" if is_share else "all") if with_cases else "",
            css,
        )
        for side, title, css in (("base", "Base model", "even"), ("tuned", "Tuned model", "main"))
    ]
    rows = [*sides, *plain]
    of = charts.scale([r[1] for r in rows if is_number(r[1])], [r[2] for r in rows])
    made = []
    for title, value, pair, tags, css in rows:
        label = f"{title}: {words.number(value)}" + (f", interval {words.interval(pair)}" if pair else "")
        strip = charts.strip(value, tuple(pair) if pair else None, of, css, label) if is_number(value) else None
        made.append(ScoreRow(title, words.number(value), words.interval(pair) if pair else "", tags, strip, css))
    return made


def claim_rows(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str, str]]:
    """(metric, base, tuned, effect, interval with its level, Holm's p, decision) of each of several primary metrics."""
    found = words.claims(verdict)
    return [
        (
            words.metric(c["metric"]),
            words.number(c["base"]),
            words.number(c["tuned"]),
            words.signed(c["effect"]),
            f"{words.interval(c['interval'], with_sign=True)} ({words.confidence(c)})",
            words.p_value(c.get("p_holm")),
            c["decision"],
        )
        for c in (found if len(found) > 1 else ())
    ]


def secondary_rows(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """(metric, base, tuned, effect, interval, what it is)."""
    return [
        (
            words.metric(name),
            words.number(row.get("base")),
            words.number(row.get("tuned")),
            words.signed(row.get("effect")),
            words.interval(row.get("interval"), with_sign=True),
            words.metric_meaning(name),
        )
        for name, row in (verdict.get("secondary") or {}).items()
    ]


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Loss (with dev), learning rate, gradient norm and speed over updates, each only where it was logged."""
    made = []
    for key, title, is_log, from_zero in (
        ("loss", "Loss on training data (line) and on dev data (points), nats", False, False),
        ("reward", "Reward of the replies that were sampled", False, False),
        ("reply_tokens", "Tokens of the replies that were sampled", False, True),
        ("kl_nats", "Distance to the model before training, nats per token", False, True),
        ("lr", "Learning rate", False, True),
        ("grad_norm", "Gradient norm before clipping", False, True),
        ("tokens_per_s", "Speed, tokens per second", False, True),
    ):
        points = [
            (float(r["update"]), float(r[key])) for r in metrics if is_number(r.get(key)) and is_number(r.get("update"))
        ]
        marks = [
            (float(r["update"]), float(r["dev_loss"]))
            for r in metrics
            if key == "loss" and is_number(r.get("dev_loss"))
        ]
        if not points and not marks:
            continue
        if not marks:
            title = title.replace(" (line) and on dev data (points)", "")
        drawn, every = charts.thin(points)
        picture = charts.curve(drawn, marks, title, log=is_log, zero=from_zero)
        if picture is not None:
            pairs = [[round(x, 2), float(f"{y:.5g}")] for x, y in drawn]
            across = [x for x, _ in (*drawn, *marks)]
            made.append(Curve(title, picture, curve_summary(points, marks, every), min(across), max(across), pairs))
    return made


def curve_summary(points: charts.Points, marks: charts.Points, every: int) -> str:
    """First, last and extremes in words: what the picture says to who does not see it."""
    said = []
    if points:
        (_, first), (end, last) = points[0], points[-1]
        at, low = min(points, key=lambda p: p[1])
        said.append(f"{charts.short(first)} at the start, {charts.short(last)} at update {end:g},")
        said.append(f"lowest {charts.short(low)} at {at:g}.")
    if marks:
        said.append(
            "Dev: "
            + ", ".join(f"{charts.short(y)} at {x:g}" for x, y in marks[:12])
            + (" …" if len(marks) > 12 else "")
            + "."
        )
    if every > 1:
        said.append(f"Each point is the mean of {every} updates.")
    return " ".join(said)


def cost_rows(cost: Mapping[str, Any]) -> list[tuple[str, str, str, Markup, bool]]:
    """(stage, time, budget, bar, is over)."""
    stages = [s for s in cost.get("stages") or () if is_number(s.get("seconds"))]
    limits = [s["budget_s"] if is_number(s.get("budget_s")) else None for s in stages]
    most = max([s["seconds"] for s in stages] + [b for b in limits if b is not None], default=0.0)
    made = []
    for stage, limit in zip(stages, limits, strict=True):
        over = limit is not None and stage["seconds"] > limit
        label = f"{stage['name']}: {words.duration(stage['seconds'])}" + (
            f" of {words.duration(limit)}" if limit is not None else ""
        )
        bar = charts.budget_bar(stage["seconds"], limit, most, label)
        made.append(
            (
                str(stage["name"]),
                words.duration(stage["seconds"]),
                "none" if limit is None else words.duration(limit),
                bar,
                over,
            )
        )
    return made


def resolved(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, why)."""
    return [(str(r.get("key", "")), flat(r.get("value")), str(r.get("why") or "")) for r in plan.get("resolved") or ()]


def cost_facts(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = [("Total time", words.duration(cost.get("total_s")))]
    said.append(("Tokens trained on", words.count(cost.get("train_tokens"))))
    said.append(
        (
            "Training speed",
            f"{words.count(cost.get('tokens_per_s'))} tokens/s"
            if is_number(cost.get("tokens_per_s"))
            else words.NOT_KNOWN,
        )
    )
    peak = cost.get("peak_gib")
    said.append(("Peak memory", f"{peak:.2f} GiB" if is_number(peak) else words.NOT_KNOWN))
    return [*said, *costs.beside_time(cost)]


def locked(lock: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The groups of lock.json: each mapping its own table, single values in a last one."""
    groups = [(k, [(str(n), flat(v)) for n, v in g.items()]) for k, g in lock.items() if isinstance(g, Mapping)]
    rest = [(k, flat(v)) for k, v in lock.items() if not isinstance(v, Mapping)]
    return [*groups, *([("run", rest)] if rest else [])]


def exports(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool | None, str]]:
    """(kind, folder, prompts compared, answered the same as the session, how far logits differ, of their spread)."""
    made = []
    for name, facts in found.items():
        check = facts if isinstance(facts, Mapping) else {}
        num, same_text = check.get("num_prompts"), check.get("same_text")
        num_same = check.get("num_same", num if same_text else None)
        asked = f"{words.count(num_same)} of {words.count(num)} the same" if is_number(num) else words.NOT_KNOWN
        differs = f"{check['logit_diff']:.1g}" if is_number(check.get("logit_diff")) else words.NOT_KNOWN
        made.append((str(name), str(check.get("path") or ""), asked, same_text, differs))
    return made
