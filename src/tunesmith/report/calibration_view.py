"""calibration.json as the page prints it: is an answer given at 80% right 80 times of 100, and when is it unsure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts, words


@dataclass(frozen=True, slots=True)
class CalibrationView:
    said: tuple[str, ...]
    figure: Markup | None
    bins: tuple[tuple[str, str, str], ...]  # (said probability, cases, share that was right)
    numbers: tuple[tuple[str, str, str], ...]  # (what, before, after)
    curve: Markup | None  # of what is right when the least sure answers are not given
    tenths: tuple[tuple[str, str, str], ...]  # (share answered, least probability, share of these right)


def share(value: Any) -> str:
    return f"{100 * value:.0f}%" if isinstance(value, (int, float)) else words.NOT_KNOWN


def calibration(found: Mapping[str, Any]) -> CalibrationView:
    held = found.get("held_out") or {}
    before, after = held.get("before") or {}, held.get("after") or {}
    bins = [b for b in after.get("bins") or () if isinstance(b, Mapping)]
    points = [(float(b["confidence"]), float(b["accuracy"]), int(b["num_cases"])) for b in bins]
    rows = [
        (name, words.number(before.get(key)), words.number(after.get(key)))
        for key, name in (
            ("ece", "gap between said and true share (ECE)"),
            ("brier", "Brier score, 0 to 2"),
            ("nll", "nats per case"),
        )
        if key in before or key in after
    ]
    tenths = [row for row in held.get("abstention") or () if isinstance(row, Mapping)]
    answered = [(float(row["answered_frac"]), float(row["accuracy"])) for row in tenths]
    label = "Reliability: " + "; ".join(f"said {share(c)}, right {share(a)} of {n}" for c, a, n in points)
    return CalibrationView(
        said=sentences(found, held),
        figure=charts.reliability(points, label) if points else None,
        bins=tuple((share(c), f"{n:,}", share(a)) for c, a, n in points),
        numbers=tuple(rows),
        curve=charts.abstention(answered, abstained(answered)) if answered else None,
        tenths=tuple(
            (share(a), words.number(row.get("least_probability")), share(r)) for row, (a, r) in zip(tenths, answered)
        ),
    )


def abstained(points: Sequence[tuple[float, float]]) -> str:
    """The curve in words."""
    said = [f"of {share(answered)} answered {share(right)} right" for answered, right in points]
    return f"When the least sure are left out: {'; '.join(said)}"


def sentences(found: Mapping[str, Any], held: Mapping[str, Any]) -> tuple[str, ...]:
    num, temperature, threshold = found.get("num_dev"), found.get("temperature"), found.get("threshold")
    if not found.get("calibrated", True):
        return (
            f"Not calibrated: {words.count(num)} dev cases with a label are too few. Probabilities are the raw ones.",
        )
    said = [
        f"Probabilities are divided by temperature {words.number(temperature)}, fitted on {words.count(num)} dev cases."
    ]
    if isinstance(threshold, (int, float)):
        said.append(
            f"Below {share(threshold)} an answer is called unsure; at or above it, {share(found.get('target'))} "
            "were right on dev."
        )
    else:
        said.append(f"No threshold: {found.get('sure', words.NOT_KNOWN)}. Every answer is called unsure.")
    if held.get("unsure_frac") is not None and held["unsure_frac"] < 1:
        said.append(
            f"On {words.count(held.get('num_cases'))} held-out cases {share(held['unsure_frac'])} were unsure; of the "
            f"other {others(held)}{share(held.get('accuracy_when_sure'))} were right, of all "
            f"{share(held.get('accuracy'))}."
        )
    return tuple(said)


def others(held: Mapping[str, Any]) -> str:
    """How many answers were not called unsure: a share of few says little."""
    num = held.get("num_cases")
    return f"{round(num * (1 - held['unsure_frac'])):,} " if isinstance(num, int) else ""
