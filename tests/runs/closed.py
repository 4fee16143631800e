"""A closed network: while it is closed, reaching for any address but this machine's own is noted, and refused.

Python tells of every socket, look-up and new process through its audit events, whichever library makes them (PEP 578);
a hook can never be taken away again, so this one is asleep unless `closed()` is on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

OWN = ("localhost", "::1", "", None)
TO_ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}  # event -> which argument is the address
TO_HOST = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}


class Refused(OSError):
    """As a machine without a network would answer."""


@dataclass
class Watch:
    is_on: bool = False
    reached: list[str] = field(default_factory=list)  # "event: where to"
    programs: list[str] = field(default_factory=list)  # processes that were started: what they do is not seen here


WATCH = Watch()


def is_own(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    return text in OWN or (isinstance(text, str) and text.startswith("127."))


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not WATCH.is_on:
        return
    if event == "subprocess.Popen":
        WATCH.programs.append(str(arguments[0]))
    if event in TO_HOST:
        host = arguments[TO_HOST[event]]
    elif event in TO_ADDRESS:
        address = arguments[TO_ADDRESS[event]]
        host = address[0] if isinstance(address, tuple) else None  # a path: a socket of this machine
    else:
        return
    if not is_own(host):
        WATCH.reached.append(f"{event}: {host}")
        raise Refused(f"the network is closed: {event} to {host}")


sys.addaudithook(hook)


@contextmanager
def closed() -> Iterator[Watch]:
    WATCH.reached, WATCH.programs, WATCH.is_on = [], [], True
    try:
        yield WATCH
    finally:
        WATCH.is_on = False
