"""Watched prompts: what the model answered to a few fixed prompts while it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PROMPTS = 12
MOST_ANSWERS = 12  # of one prompt, spread over the training, the first and the last among them
MOST_CHARS = 1_500  # of one text


@dataclass(frozen=True, slots=True)
class Watched:
    """One prompt and its answers in the order of updates: (update, answer, differs from the one before it)."""

    example_id: str
    prompt: str
    reference: str
    answers: tuple[tuple[int, str, bool], ...]
    num_answers: int  # with those left out


def short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]} … {len(text) - MOST_CHARS:,} more characters"


def spread(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most MOST_ANSWERS of the rows, evenly, with both ends."""
    if len(rows) <= MOST_ANSWERS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (MOST_ANSWERS - 1))] for i in range(MOST_ANSWERS)]


def watched(rows: Sequence[Mapping[str, Any]]) -> list[Watched]:
    """By prompt, as they stand in watched.jsonl (update, example_id, prompt, reference, answer).

    A resume answers again what was answered before: of one update, the last answer counts.
    """
    by_id: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(str(row.get("example_id")), {})[int(row.get("update") or 0)] = row
    made = []
    for example_id, found in list(by_id.items())[:MOST_PROMPTS]:
        kept = spread([found[update] for update in sorted(found)])
        texts = [short(r.get("answer")) for r in kept]
        answers = tuple(
            (int(row.get("update") or 0), text, i > 0 and text != texts[i - 1])
            for i, (row, text) in enumerate(zip(kept, texts, strict=True))
        )
        made.append(
            Watched(example_id, short(kept[0].get("prompt")), short(kept[0].get("reference")), answers, len(found))
        )
    return made
