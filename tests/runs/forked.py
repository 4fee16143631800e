"""`tunesmith` as a process of its own, forked from the one that runs the tests: all is imported there already, which is
most of what a small command takes. tests/runs/test_command_line.py starts whole interpreters."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith.cli.main import main

PRIMED = {"TOKENIZERS_PARALLELISM": "false"}  # else the tokenizers warn that they were forked


def started(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None,
    first: Callable[[], object] = lambda: None, **streams: Any,
) -> subprocess.Popen[Any]:  # fmt: skip
    """The process; `first` is called in it before the command is. `streams` as subprocess.Popen has them."""
    environ = {**(os.environ if env is None else env), **PRIMED}

    def child() -> None:  # in the fork, where Popen would begin another program: it never returns
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # Popen waits for the last of these
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python begins; Popen had restored the default
        warnings.resetwarnings()
        torch.set_num_threads(torch.get_num_threads())  # here, before two threads at once find no pool in a fork
        first()
        os.environ.clear()
        os.environ.update(environ)
        sys.stdin, sys.stdout, sys.stderr = (open(fd, mode, closefd=False) for fd, mode in enumerate("rww"))  # noqa: SIM115
        sys.argv = ["tunesmith", *words]
        code = 1
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    gc.freeze()  # what is here is looked through by no collection there
    return subprocess.Popen(["tunesmith"], preexec_fn=child, cwd=cwd, **streams)
