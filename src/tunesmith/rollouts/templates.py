"""Templates of OpenAI's graders: `{{ item.x }}` is of the row, `{{ sample.output_text }}` of the reply.

What is put in is never read as a template again, so neither a row nor a reply can ask for another value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import DataError, RecipeError
from tunesmith.evals.calls import calls_in
from tunesmith.evals.json_scores import any_json
from tunesmith.rollouts.parts import Ungradable, facts_of
from tunesmith.types import Attempt

HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
PATH = re.compile(r"(?:item|sample)(?:\.[^.\[\]\s]+|\[(?:\d+|'[^']*'|\"[^\"]*\")\])+")
STEP = re.compile(r"\.([^.\[\]\s]+)|\[(\d+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")
SAMPLE = ("output_text", "output_json", "output_tools", "choices")


def check(template: str, where: str) -> str:
    """The template itself. RecipeError where a hole names neither a row's value nor one of the reply's."""
    for inside in HOLE.findall(template):
        path = inside.strip()
        steps = STEP.findall(path) if PATH.fullmatch(path) else []
        if not steps or (path.startswith("sample") and "".join(steps[0]) not in SAMPLE):
            raise RecipeError(
                f"{where} has {{{{{inside}}}}}; wanted {{{{ item.NAME }}}} or one of "
                f"{', '.join(f'{{{{ sample.{name} }}}}' for name in SAMPLE)}"
            )
    return template


def filled(template: str, attempt: Attempt) -> str:
    return HOLE.sub(lambda hole: as_text(found(hole[1].strip(), attempt)), template)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def sample_of(attempt: Attempt) -> dict[str, Any]:
    """A reply as graders see it; `output_json` only where it is JSON."""
    value, is_json = any_json(attempt.text)
    tools = [
        {"type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}}
        for c in calls_in(attempt.text)
    ]
    made = {"output_text": attempt.text, "output_tools": tools,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": attempt.text}}]}  # fmt: skip
    return {**made, "output_json": value} if is_json else made


def found(path: str, attempt: Attempt) -> Any:
    """DataError where the row has no such value, Ungradable where the reply has none."""
    is_item = path.startswith("item")
    value: Any = facts_of(attempt) if is_item else sample_of(attempt)
    for step in STEP.findall(path):
        name, place = step[0] or step[2] or step[3], step[1]
        if isinstance(value, Mapping) and not place and name in value:
            value = value[name]
        elif isinstance(value, list) and place and int(place) < len(value):
            value = value[int(place)]
        elif is_item:
            raise DataError(
                f"{attempt.example.source or attempt.example.id}: the grader reads {path}, which is not there; the row "
                f"has: {', '.join(facts_of(attempt))}"
            )
        else:
            raise Ungradable(f"the reply has no {path.removeprefix('sample.')}")
    return value
