"""Ctrl-C and SIGTERM while a run is on: nothing that was done is lost, and the second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith import exits
from tunesmith.errors import Interrupted

ENTERED: list[Stop] = []  # of this process, and not left
ASKED = threading.Event()  # by `ask`


class Stop:
    """Where work is kept step by step (`gently`), the first signal lets the step finish and be kept. Anywhere else
    there is nothing to finish, and a second signal has no patience: KeyboardInterrupt, at once.

    Where --processes started this process SIGTERM is nobody's wish to stop: another process was lost, and torch's
    launcher ends all, to start them again."""

    def __init__(self, say: Callable[[str], None], again: str = "--resume goes on with it") -> None:
        self.say, self.again = say, again
        self.is_asked = False
        self.step = ""  # what is finished before the run stops; "" = stop at once
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen to signals
            listened = (signal.SIGINT,) if exits.place() else (signal.SIGINT, signal.SIGTERM)
            self.before = {s: signal.signal(s, self.note) for s in listened}
        ENTERED.append(self)
        self.is_asked = self.is_asked or ASKED.is_set()
        return self

    def __exit__(self, *exc: object) -> None:
        ENTERED.remove(self)
        for number, former in self.before.items():
            signal.signal(number, former)

    def note(self, number: int, frame: Any) -> None:
        if self.is_asked or not self.step:
            raise KeyboardInterrupt
        self.is_asked = True
        text = f"stopping: {self.step} is finished and kept first; once more stops at once"
        # In a thread of its own: a signal may come in the middle of a line, and a print inside a print would fail.
        threading.Thread(target=self.say, args=(text,)).start()

    @contextmanager
    def gently(self, step: str) -> Iterator[None]:
        """Inside, the first signal waits for the next `check`; there is one at the end."""
        self.step = step
        try:
            yield
        finally:
            self.step = ""
        self.check("stopped; what was done is kept")

    def check(self, done: str) -> None:
        """Raise Interrupted, saying what is done, if a signal came. Called where all that was done is kept."""
        if self.is_asked:
            raise Interrupted(f"{done}; {self.again}")


def ask() -> None:
    """What a first signal says, to a process that is sent none: it stops where all of its work is kept, also of what
    has not begun."""
    ASKED.set()
    for stop in ENTERED:
        stop.is_asked = True
