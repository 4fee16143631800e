"""understanding.json as the report prints it: topics of the cases, the weakest first, and which layers moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts, words


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    num: int
    score: str
    gap: str
    interval: str
    tone: str  # "bad", "good" or "": beyond chance, for all topics together


@dataclass(frozen=True, slots=True)
class Why:
    said: str
    topics: tuple[Topic, ...]
    layers: tuple[tuple[str, str, str, Markup], ...]  # (layer, moved by, its matrix that moved most, bar)


def why(found: Mapping[str, Any]) -> Why:
    topics = tuple(topic(row) for row in found.get("topics") or ())
    weak = [t.name for t in topics if t.tone == "bad"]
    said = "The cases are too few, or too like each other, to be put into topics."
    if weak:
        said = f"The tuned model does worse than elsewhere, beyond chance, where the prompt is about {'; '.join(weak)}."
    elif topics:
        said = "In no topic does the tuned model do worse than elsewhere beyond chance."
    rows = [row for row in found.get("layers") or () if isinstance(row.get("relative"), float)]
    most = max((row["relative"] for row in rows), default=0.0)
    return Why(said, topics, tuple(layer(row, most) for row in rows))


def topic(row: Mapping[str, Any]) -> Topic:
    low, high = row["interval"]
    tone = "bad" if high < 0 else "good" if low > 0 else ""
    span = words.interval(row["interval"], with_sign=True)
    num = len(row["example_ids"])
    return Topic(str(row["name"]), num, words.number(row["score"]), words.signed(row["gap"]), span, tone)


def layer(row: Mapping[str, Any], most: float) -> tuple[str, str, str, Markup]:
    name = f"layer {row['layer']}" if row["layer"] else "outside the layers"
    said = f"{100 * row['relative']:.2g}%"
    bar = charts.budget_bar(row["relative"], None, most or 1.0, f"{name}: {said}")
    return name, said, str(row["largest"]).removeprefix("model."), bar


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for Markdown: the sentence, and the topics."""
    view = why(found)
    rows = [
        f"- about {t.name}: {t.score} on {t.num} cases, {t.gap} against the others ({t.interval})" for t in view.topics
    ]
    return [view.said, "", *rows, *([""] if rows else [])]
