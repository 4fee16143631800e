"""Tasks of reasoning-gym by name: `reasoning-gym/TASK?size=500&seed=1&…`, made here and kept as a file in the cache.

What stands behind the name is handed to reasoning-gym: size, seed, and whatever the task itself can be told. Each row
has the question, the answer, and the whole entry that the task's own scorer reads (the reward `reasoning_gym`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tunesmith.errors import DataError, did_you_mean
from tunesmith.files import sha256_text, write_text
from tunesmith.places import cache_dir

NAME = re.compile(r"reasoning-gym/(\w+)(?:\?(.*))?")
USUAL = {"size": 500, "seed": 0}


def is_gym_name(text: str) -> bool:
    return text.startswith("reasoning-gym/") and not Path(text.split("?")[0]).exists()


def rows_file(text: str) -> Path:
    """The rows of that name, the same for the same name and version of reasoning-gym. DataError where it has no such
    task, or the task cannot be told so."""
    match = NAME.fullmatch(text)
    if match is None:
        raise DataError(f"{text}: wanted reasoning-gym/TASK, or reasoning-gym/TASK?size=500&seed=1&KEY=VALUE")
    task, said = match[1], USUAL | {key: value_of(value) for key, value in parse_qsl(match[2] or "")}
    try:
        version = metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        raise DataError(f"{text}: this needs the reasoning-gym package: pip install 'tunesmith[gym]'") from None
    key = sha256_text(json.dumps([version, task, said], sort_keys=True))[:12]
    path = cache_dir() / "gym" / f"{task}_{key}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows(text, task, said)))
    return path


def value_of(text: str) -> Any:
    """A number, a list, true or false as JSON says them; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def rows(text: str, task: str, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise DataError(f"{text}: reasoning-gym has no task {task!r}.{did_you_mean(task, DATASETS)}")
    try:
        for entry in reasoning_gym.create_dataset(task, **said):
            turn = {"role": "user", "content": entry["question"]}
            yield {"messages": [turn], "answer": str(entry["answer"]), "entry": json.dumps(entry)}
    except (TypeError, ValueError, AssertionError) as error:
        told = ", ".join(f"{key}={value}" for key, value in said.items())
        raise DataError(f"{text}: the task {task} cannot be told {told}: {error}") from None
