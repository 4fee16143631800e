"""The server's process: its address, its limits, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn

from tunesmith.errors import InputError
from tunesmith.opened import Opened
from tunesmith.serve.app import Rules, make, names
from tunesmith.serve.door import is_loopback

MOST_CONNECTIONS = 256


def check(host: str, rules: Rules) -> None:
    """Other machines are let in only where the user says so and sets a key."""
    if is_loopback(host):
        return
    if not rules.is_exposed or rules.key is None:
        raise InputError(
            f"--host {host} is reachable from other machines. If that is wanted, say --expose and set a key with "
            "--api-key (or TUNESMITH_API_KEY); traffic is not encrypted"
        )


def bound(host: str, port: int) -> socket.socket:
    """It listens already: who comes before the model is loaded waits, and nobody else can take the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        door.close()
        raise InputError(
            f"cannot listen on {host} port {port}: {str(error).rstrip('.')}. Take another --port (0 finds a free one)"
        ) from error
    return door


def run(opened: Opened, door: socket.socket, rules: Rules, say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C. `say` is told where, once connections are taken."""
    host, port = door.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        make(opened, rules),
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    logging.getLogger("uvicorn.error").addFilter(is_news)
    say(f"http://{shown}:{port}/v1 answers as: {', '.join(names(opened))}. Ctrl-C stops it.")
    uvicorn.Server(config).run(sockets=[door])


def is_news(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of answers that were being written when Ctrl-C came: to stop them was the wish."""
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not (is_cancelled or record.getMessage().startswith("Cancel "))
