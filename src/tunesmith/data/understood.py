"""What was understood of the files, as facts: for the terminal, the audit and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunesmith.data.ingest import Ingested, task_of
from tunesmith.data.render import Rendered
from tunesmith.types import Task


def understood(ingested: Ingested, rendered: Rendered) -> dict[str, Any]:
    """How the files were read, which columns became what and who said so, the task and why, and one real row.

    The row is the first of the training split, in pieces of (text, whether it is learned); of a prompt alone, none is.
    """
    columns = {name: value for name, value in asdict(ingested.columns).items() if value}
    first = rendered.records[0].example_id if rendered.records else ""
    example = next((e for e in ingested.examples if e.id == first), None)
    is_asked = example is not None and isinstance(example.target, Task)  # its replies will be sampled: none stands here
    task, why = task_of(ingested.columns, ingested)
    return {
        "files": list(ingested.files),
        "found": ingested.found,
        "rows": ingested.num_rows,
        "accepted": len(ingested.examples),
        "messages": ingested.num_messages,
        "columns": columns,
        "spelled": {kind: _spelled(value) for kind, value in columns.items()},
        "said": list(ingested.said),
        "ignored": list(ingested.ignored),
        "task": task,
        "task_why": why,
        "example": {
            "id": first,
            "source": example.source if example else "",
            "pieces": [list(piece) for piece in rendered.shown if not (is_asked and piece[1])],
        },
        "notices": list(ingested.notices),
    }


def _spelled(value: Any) -> str:
    """Which columns stand for something, on one line: a name, several, a template in quotes, a mapping."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {meaning}" for name, meaning in value.items())
    if isinstance(value, (list, tuple)):
        return " + ".join(_spelled(v) for v in value)
    return repr(value) if "{" in value else str(value)
