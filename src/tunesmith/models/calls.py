"""How often forest attention ran, and with which windows: the probe asks whether a model uses it at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Calls:
    """What forest attention was asked for while `count_calls` was open."""

    windows: list[int | None] = field(default_factory=list)  # sliding window of each call, in order

    @property
    def num(self) -> int:
        return len(self.windows)


_CALLS: ContextVar[Calls | None] = ContextVar("tunesmith_forest_calls", default=None)


@contextmanager
def count_calls() -> Iterator[Calls]:
    """Counts the runs of forest attention in this thread; one forward pass makes one per attention layer."""
    calls = Calls()
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


def count(window: int | None) -> None:
    calls = _CALLS.get()
    if calls is not None:
        calls.windows.append(window)
