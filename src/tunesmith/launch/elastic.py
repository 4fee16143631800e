"""`--processes N`: the same command in N processes on this machine, by the elastic launcher behind torchrun."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tunesmith import exits
from tunesmith.errors import RunError

RESTARTS = 3  # of all processes, where one was lost
GRACE_S = 10  # until a process that does not end by itself is killed
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # else a new start reads the addresses of the one before
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # read by torch 2.12 and later; 30 s before


def launch(words: Sequence[str], num: int) -> int:
    """Runs `tunesmith WORDS` in each; returns the leader's exit code."""
    with tempfile.TemporaryDirectory(prefix="tunesmith_launch_") as scratch:
        os.environ[exits.FOLDER] = scratch
        try:
            return launched(Path(scratch), num, sys.executable, ("-m", "tunesmith", *words))
        finally:
            del os.environ[exits.FOLDER]  # this process is none of those


def launched(
    folder: Path, num: int, entry: str | Callable[..., Any], words: Sequence[str], method: str = "spawn"
) -> int:
    """`folder`: where exits.py finds it. RunError where a process was lost more often than it is started again."""
    os.environ.setdefault(SHUTDOWN, str(GRACE_S))
    os.environ[OWN_STORE] = "1"
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=RESTARTS, start_method=method,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "torch")), signals_to_handle="SIGHUP,SIGQUIT",
    )  # fmt: skip
    try:
        with passed_on(folder):
            elastic_launch(config, entry)(*words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        log = f"; logs/rank_{rank}.log in the run's folder has its last words" if rank else ""
        raise RunError(
            f"rank {rank} of {num} ended with exit code {failure.exitcode}, after {RESTARTS} new starts. What was kept "
            f"before is whole, and a run goes on with --resume{log}"
        ) from None
    code = exits.ended(folder)
    assert code is not None, "a leader that ends well says how"
    return code


@contextmanager
def passed_on(folder: Path) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the leader, which finishes its update, saves and lets the others go. Before there is one
    they end everything."""

    def pass_on(number: int, frame: Any) -> None:
        pid = exits.leader(folder)
        if pid is None:
            raise KeyboardInterrupt
        os.kill(pid, signal.SIGINT)

    former = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
