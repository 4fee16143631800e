"""Several trainings at once, each in a process of its own: settings of a sweep, sizes of a curve, seeds.

Each process loads model and data once and keeps them for its next training. What a training finds does not depend on
what runs beside it; only what is asked for next may, where that is chosen by what is known so far.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as ended
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any, Protocol, TypeVar

import torch

from tunesmith.errors import InputError, RunError, TunesmithError, again
from tunesmith.models.here import MEMORY, memory_gib
from tunesmith.stopping import Stop, ask

Order = TypeVar("Order")
Found = TypeVar("Found")
EVERY_S = 1.0  # between two looks at whether a person wants it to stop
KEPT: dict[str, Any] = {}  # of this process, from one training to the next


class Beside(Protocol):
    """Where trainings run at once; launch/ray.py has the other one."""

    num: int

    def submit(self, work: Callable[[Order], Any], order: Order) -> Future[Any]: ...
    def stop(self) -> None: ...  # each training is kept, and ends


def once(key: str, make: Callable[[], Found]) -> Found:
    """What this process made under this key before, or makes now; it keeps nothing else."""
    if key not in KEPT:
        KEPT.clear()
        KEPT[key] = make()
    found: Found = KEPT[key]
    return found


def each(
    beside: Beside, stop: Stop, work: Callable[[Order], Found], orders: Iterable[Order]
) -> Iterator[tuple[Order, Found]]:
    """Each order with what it came to, as they end. An order is asked for when there is room for it."""
    waiting, running = iter(orders), dict[Future[Any], Order]()
    is_told = False
    with stop.gently("what is being trained"):
        while True:
            while len(running) < beside.num and not stop.is_asked and (order := next(waiting, None)) is not None:
                running[beside.submit(work, order)] = order
            if not running:
                break
            done, _ = wait(running, EVERY_S, FIRST_COMPLETED)
            if stop.is_asked and not is_told:
                beside.stop()
                is_told = True
            for future in done:
                order = running.pop(future)
                if not stop.is_asked:  # what is stopped is made again, or gone on with
                    yield order, result(future)


def result(future: Future[Any]) -> Any:
    try:
        kind, found = future.result()
    except BrokenProcessPool:
        raise RunError(
            "one of the processes that train side by side was ended from outside (was the memory used up?). What was "
            "kept is whole: --resume goes on, with fewer --at-once where it was the memory"
        ) from None
    if kind is not None:
        raise again(kind, found)
    return found


def attempt(work: Callable[[Order], Found], order: Order) -> tuple[type[TunesmithError] | None, Found | str]:
    """In the process that trains. An error of ours goes back by its name: not each can be pickled."""
    try:
        return None, work(order)
    except TunesmithError as error:
        return type(error), str(error)


class Processes:
    """Of this machine, which divide its threads and its free memory."""

    def __init__(self, num: int) -> None:
        threads, memory = max(1, torch.get_num_threads() // num), memory_gib("cpu") / num
        started = context()
        self.num, self.stopped, self.began = num, started.Event(), started.SimpleQueue()
        self.pool = ProcessPoolExecutor(num, started, begin, (threads, memory, self.stopped, self.began))

    def submit(self, work: Callable[[Order], Any], order: Order) -> Future[Any]:
        return self.pool.submit(attempt, work, order)

    def stop(self) -> None:
        self.stopped.set()

    def kill(self) -> None:
        while not self.began.empty():
            with suppress(ProcessLookupError):
                os.kill(self.began.get(), signal.SIGKILL)


@contextmanager
def processes(num: int) -> Iterator[Processes]:
    if torch.cuda.is_available():
        raise InputError("--at-once would have its trainings share this machine's GPUs: say --ray-address too, and Ray "
                         "gives each one of its own")  # fmt: skip
    found = Processes(num)
    try:
        yield found
    except BaseException:
        found.kill()
        raise
    finally:
        found.pool.shutdown(cancel_futures=True)


def context() -> BaseContext:
    """Of fresh processes, never copies of this one, whose threads they would lack; where that is possible one imports
    for all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tunesmith.seeds", "tunesmith.curve"])
    return found


def begin(threads: int, memory: float, stopped: Event, began: SimpleQueue[int]) -> None:
    """In a new process. It hears from its parent when to stop, and does not outlive it."""
    began.put(os.getpid())
    os.setpgrp()  # Ctrl-C is the parent's
    warnings.filterwarnings("ignore", module="transformers|peft|torch")  # as the command line does
    torch.set_num_threads(threads)
    os.environ[MEMORY] = f"{memory:.3f}"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(sentinel: int) -> None:
        ended([sentinel])
        os._exit(1)

    def hear() -> None:
        stopped.wait()
        ask()

    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
    threading.Thread(target=hear, daemon=True).start()
