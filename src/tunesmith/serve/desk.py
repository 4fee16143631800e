"""The one place where requests wait for the model: a bounded line, and one thread that answers them in turn."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field

from tunesmith.errors import RunError, TunesmithError
from tunesmith.generate.limits import Limits
from tunesmith.generate.stream import Ask, Piece
from tunesmith.opened import Opened
from tunesmith.serve.wire import Refused
from tunesmith.types import Message


class Gone(Exception):
    """Whoever asked has left, or the server is stopping: nobody reads the answer."""


class Late(RunError):
    """An answer took longer than the server's rules allow."""


@dataclass(eq=False)
class Job:
    """One request. Made in the event loop's thread; `tell` is called by the desk's."""

    who: str
    turns: tuple[Message, ...]
    limits: Limits
    ask: Ask
    until: float  # monotonic seconds
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    told: asyncio.Queue[Piece | Exception | None] = field(default_factory=asyncio.Queue)
    is_dropped: threading.Event = field(default_factory=threading.Event)

    def tell(self, news: Piece | Exception | None) -> None:
        self.loop.call_soon_threadsafe(self.told.put_nowait, news)

    def drop(self) -> None:
        """Stop answering: after the token that is being computed."""
        self.is_dropped.set()
        self.told.put_nowait(Gone())

    async def pieces(self) -> AsyncIterator[Piece]:
        while (news := await self.told.get()) is not None:
            if isinstance(news, Exception):
                raise news
            yield news


class Desk:
    """`num_seats`: requests that may wait or be answered at one time; one more is refused with 429."""

    def __init__(self, opened: Opened, num_seats: int) -> None:
        self.opened, self.num_seats = opened, num_seats
        self.line: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.jobs: set[Job] = set()  # touched by the event loop's thread alone
        self.thread = threading.Thread(target=self._work, name="tunesmith-desk", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        for job in list(self.jobs):
            job.drop()
        self.line.put(None)
        self.thread.join(timeout=5)

    def take(self, job: Job) -> None:
        if len(self.jobs) >= self.num_seats:
            raise Refused(
                429, f"{self.num_seats} requests are waiting already; ask again in a moment", code="queue_full"
            )
        self.jobs.add(job)
        self.line.put(job)

    def leave(self, job: Job) -> None:
        """Whoever asked reads no more; to be called in any case."""
        self.jobs.discard(job)
        job.is_dropped.set()

    def _work(self) -> None:
        while (job := self.line.get()) is not None:
            if not job.is_dropped.is_set():
                job.tell(self._answered(job))
                job.loop.call_soon_threadsafe(self.jobs.discard, job)  # a slow reader holds no seat

    def _answered(self, job: Job) -> Exception | None:
        """Tells the pieces; returns what is to be told last."""
        late = Late("the answer took longer than the server allows (--timeout-s); ask for fewer tokens")
        if time.monotonic() > job.until:
            return late
        try:
            with closing(self.opened.stream(job.who, job.turns, job.limits, job.ask)) as pieces:
                for piece in pieces:
                    if job.is_dropped.is_set():
                        return Gone()
                    job.tell(piece)
                    if time.monotonic() > job.until:
                        return late
        except TunesmithError as error:
            return error
        except Exception as error:  # the thread must outlive it; the app answers 500 and shows the traceback
            return error
        return None
