"""How far long work over rows has come. Few rows are done before anybody could look: of them nothing is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

Step = Callable[[int, int, str], None]  # how many are done, of how many, and what
EVERY = 4096  # rows


def untold(done: int, total: int, text: str) -> None: ...


def counted(things: Iterable[T], total: int, text: str, step: Step) -> Iterator[T]:
    """The things themselves, told as they go by."""
    for at, thing in enumerate(things):
        if at and at % EVERY == 0:
            step(at, total, text)
        yield thing
    if total > EVERY:
        step(total, total, text)
