"""Examples in a file, behind the sequence of them: how one is written there and read again."""

from __future__ import annotations

import json
from array import array
from dataclasses import asdict
from typing import Any

import numpy as np

from tunesmith.data import alike
from tunesmith.data.traits import Traited
from tunesmith.types import Example, Label, Marked, Message, Pair, Ranked, Reply, Target, Task

# Values that JSON does not know (a date in a tool call of a Parquet file) become text, as a template would write them
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


class Examples(Traited):
    """Filled by `append`, whose examples carry the hash of their content as id; `number` then gives the occurrences."""

    def __init__(self) -> None:
        super().__init__(_to_bytes, self._of_bytes_there)
        self._seen = bytearray()  # digests of contents, in the order of the files; some of rows that were rejected
        self._accepted = array("I")  # which of these are examples
        self.times = np.empty(0, np.uint8)  # of each example: how many with its content came before, and itself

    def see(self, content: str) -> None:
        """Counts as an occurrence, whether the row becomes an example or not."""
        self._seen += bytes.fromhex(content)

    def append(self, thing: Example) -> None:
        super().append(thing)
        self._accepted.append(len(self._seen) // alike.BYTES - 1)

    def number(self) -> None:
        """Once, when all are there: identical rows stay two."""
        times = alike.occurrence(np.frombuffer(self._seen, alike.DTYPE))
        self.times = times[np.frombuffer(self._accepted, np.uint32)]
        self._seen, self._accepted = bytearray(), array("I")

    def _of_bytes_there(self, at: int, row: bytes) -> Example:
        name, *rest = json.loads(row.decode("utf-8", "surrogatepass"))
        return of_row([f"{name}-{int(self.times[at])}", *rest])


def to_row(example: Example) -> list[Any]:
    """As JSON knows it, to be kept in a file of a run."""
    row: list[Any] = json.loads(_to_bytes(example).decode("utf-8", "surrogatepass"))
    return row


def _to_bytes(example: Example) -> bytes:
    target = example.target
    what: Any = asdict(target) if isinstance(target, Task) else None
    if isinstance(target, Reply):
        what = _turn(target.message)
    elif isinstance(target, Label):
        what = target.name
    elif isinstance(target, Pair):
        what = [_turn(target.chosen), _turn(target.rejected)]
    elif isinstance(target, Ranked):
        what = [_turn(reply) for reply in target.replies]
    elif isinstance(target, Marked):
        what = [_turn(target.message), target.is_good]
    row = [
        example.id, [_turn(m) for m in example.prompt], type(target).__name__, what, example.group, example.weight,
        example.source, example.tests, dict(example.slices), example.when, example.is_synthetic,
    ]  # fmt: skip
    return _write(row).encode("utf-8", "surrogatepass")


def _turn(message: Message) -> list[Any]:
    return [message.role, message.content, message.weight, *([dict(message.extra)] if message.extra else [])]


def of_row(row: list[Any]) -> Example:
    """What `to_row` was given."""
    name, prompt, kind, what, *rest = row
    target: Target
    if kind == "Reply":
        target = Reply(Message(*what))
    elif kind == "Label":
        target = Label(what)
    elif kind == "Pair":
        target = Pair(*(Message(*side) for side in what))
    elif kind == "Ranked":
        target = Ranked(tuple(Message(*reply) for reply in what))
    elif kind == "Marked":
        target = Marked(Message(*what[0]), what[1])
    else:
        target = Task(**what)
    return Example(name, tuple(Message(*turn) for turn in prompt), target, *rest)
