"""The port of `tunesmith serve` is taken, and takes connections, before the model is loaded."""

from __future__ import annotations

import socket

import pytest

from tunesmith.errors import InputError
from tunesmith.serve.server import bound


def test_who_comes_early_waits_and_nobody_else_takes_the_port() -> None:
    """Mutant: a port that is bound and not listened at refuses the one, and is given to the other."""
    with bound("127.0.0.1", 0) as door:
        host, port = door.getsockname()
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(InputError, match="cannot listen"):
            bound(host, port)
