"""The prompts of a file, each once, whatever else stands in a row: a reply, a pair, facts for a grader, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from tunesmith.build import drawn
from tunesmith.data import ingest
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.infer import infer
from tunesmith.data.rows import Rejected, Row, rows
from tunesmith.data.turns import messages_of
from tunesmith.errors import DataError, InputError
from tunesmith.types import Example, Pair, Ranked, Reply, Task

ALONE = ("messages", "prompt", "question", "instruction", "query", "input", "text")  # what a prompt by itself is called
LOOK_AHEAD = 200  # rows


@dataclass(frozen=True, slots=True)
class PromptRows:
    """`pairs`: rows to these prompts in which people found one reply better than another."""

    examples: tuple[Example, ...]
    pairs: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def read(source: Path, most: int | None) -> PromptRows:
    """At most `most` prompts, drawn by the hash of their ids."""
    if most is not None and most < 1:
        raise InputError(f"--cases is {most}; wanted a number above 0")
    columns = columns_alone(source)
    if columns is None:
        found = ingest.read([source])
        examples, num_bad = list(found.examples), len(found.rejected)
    else:
        examples, num_bad = alone(source, columns)
    once: dict[object, Example] = {}
    for example in examples:
        once.setdefault(key_of(example), example)
    asked = tuple(once.values()) if most is None else drawn(list(once.values()), most)
    keys = {key_of(e) for e in asked}
    pairs = [e for e in examples if isinstance(e.target, (Pair, Ranked)) and key_of(e) in keys]
    notes = [f"{num_bad} rows could not be read and were not asked."] if num_bad else []
    return PromptRows(tuple(gradable(e) for e in asked), tuple(pairs), tuple(notes))


def key_of(example: Example) -> object:
    return tuple((m.role, m.content) for m in example.prompt)


def gradable(example: Example) -> Example:
    """What people said of other replies is no fact to grade a new one with."""
    is_fact = isinstance(example.target, (Reply, Task)) or not hasattr(example.target, "replies")
    return example if is_fact else replace(example, target=Task({}))


def columns_alone(source: Path) -> Columns | None:
    """Where prompts stand without anything to learn; None where rows are what a run learns from."""
    sample = [item[1] for item in islice(rows(source), LOOK_AHEAD) if not isinstance(item, Rejected)]
    names = tuple(dict.fromkeys(name for row in sample for name in row))
    name = next((n for n in names if n.lower() in ALONE), None)
    try:
        found = infer(names, Columns(), sample)
    except DataError:
        if name is None:
            raise
        found = None
    if found is not None and not found.text and not (found.messages and asks(sample, found.messages)):
        return None
    assert name is not None
    chat = name.lower() == "messages"
    return Columns(messages=name if chat else None, prompt=None if chat else (name,))


def asks(sample: Sequence[Row], name: str) -> bool:
    """Whether all conversations end before the answer."""
    return all(messages_of(row[name], name)[-1].role in ("user", "tool") for row in sample if row.get(name) is not None)


def alone(source: Path, columns: Columns) -> tuple[list[Example], int]:
    """(examples whose other columns are facts, rows that hold no prompt)."""
    found, num_bad = list[Example](), 0
    for item in rows(source):
        if isinstance(item, Rejected):
            num_bad += 1
            continue
        line, row = item
        try:
            prompt = prompt_of(row, columns)
        except ValueError:
            num_bad += 1
            continue
        target = Task({name: v for name, v in row.items() if name not in columns.used() and v is not None})
        found.append(Example(ingest.example_id(prompt, target), prompt, target, source=f"{source}:{line}"))
    if not found:
        raise DataError(f"{source}: none of its {num_bad} rows holds a prompt in {' or '.join(columns.used())}")
    return found, num_bad
