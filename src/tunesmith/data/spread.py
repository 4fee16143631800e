"""The same work on all cores: pieces made in forked processes, given in their order.

A process makes every n-th piece and waits where nobody takes them, so that memory stays bounded. What a process cannot
make, because it met an error or was ended, is made here: an error is raised where it can be read.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import IO


def cores() -> int:
    """That this process may use; 1 where it cannot be forked safely."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def spread(make: Callable[[int], bytes], num: int, workers: int) -> Iterator[bytes]:
    """make(0), make(1), … make(num - 1)."""
    pipes: list[IO[bytes]] = []
    children: list[int] = []
    try:
        for worker in range(min(workers, num)):
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                work(make, range(worker, num, workers), write, [read, *(pipe.fileno() for pipe in pipes)])
            os.close(write)
            children.append(child)
            pipes.append(os.fdopen(read, "rb"))
        for piece in range(num):
            found = taken(pipes[piece % workers])
            yield make(piece) if found is None else found
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def work(make: Callable[[int], bytes], pieces: range, write: int, others: list[int]) -> None:
    """A child: it never returns. It ends when nobody reads any more, since no other child holds its pipe."""
    try:
        gc.freeze()  # what the parent holds is looked through by no collection here
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not here: who wants them waits for ever
        for handle in others:
            os.close(handle)
        with os.fdopen(write, "wb") as out:
            for piece in pieces:
                data = make(piece)
                out.write(len(data).to_bytes(8, "big") + data)
                out.flush()
    finally:
        os._exit(0)  # without a word: the parent makes what is missing


def taken(pipe: IO[bytes]) -> bytes | None:
    """The next piece; None where none came."""
    size = pipe.read(8)
    if len(size) < 8:
        return None
    num = int.from_bytes(size, "big")
    data = pipe.read(num)
    return data if len(data) == num else None
