"""What is said of an error: a user's mistake, a machine that ran out of something, or a fault of tunesmith's own.

Exit codes: 0 done; 1 a run failed, or tunesmith did; 2 what was given is wrong; 3 --require-better was not met;
75 stopped by Ctrl-C or a signal, with nothing lost. 141: the program that read the output went away.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

from tunesmith.errors import TunesmithError, is_memory, of_the_system
from tunesmith.secret import masked

DEBUG = "TUNESMITH_DEBUG"
FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
BAD = (errno.EIO, errno.EFBIG, errno.ESTALE) if hasattr(errno, "ESTALE") else (errno.EIO, errno.EFBIG)
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
FAILED, WRONG = 1, 2  # exit codes


class InFolder(Exception):
    """Carries the folder of the run in which something unexpected happened; its cause is what happened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def told(error: Exception) -> tuple[str, int]:
    """(the message, the exit code). For a fault of tunesmith's own, the whole traceback goes to a file."""
    folder = Path(tempfile.gettempdir())
    if isinstance(error, InFolder):
        folder = error.folder if error.folder.is_dir() else folder
        assert isinstance(error.__cause__, Exception)
        error = error.__cause__
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, TunesmithError):
        return masked(str(error)), error.exit_code
    return of_the_machine(error) or (masked(own_fault(error, folder)), FAILED)


def of_the_machine(error: Exception) -> tuple[str, int] | None:
    """What the machine has no more of, or does not allow; None where that is not it."""
    if type(error).__name__ == "SafetensorError":  # of transformers, which writes by itself
        error = of_the_system(error) or error
    if isinstance(error, OSError) and error.strerror is not None:
        name = str(error.filename or "a file")
        if error.errno in FULL:
            return (
                f"the disk is full: {name} could not be written. What was kept before is whole. Make room (`df -h` "
                "shows how much there is), then type the same command again; a run goes on with --resume",
                FAILED,
            )
        if error.errno in DENIED:
            return (
                f"{name}: {error.strerror.lower()}. Wanted a place that you may read and write: change its rights, or "
                "name another one",
                WRONG,
            )
        if error.errno in BAD:
            return (
                f"{name}: {error.strerror.lower()}: the disk, its connection or its limits refused. What was kept "
                "before is whole, and a run goes on with --resume, here or in a copy of its folder on another disk",
                FAILED,
            )
        if error.errno in MISPLACED:
            return f"{name}: {error.strerror.lower()}. Name another path", WRONG
    if is_memory(error):
        return (
            "the memory ran out. What was kept before is whole, and a run goes on with --resume. To need less: a "
            "smaller train.micro_tokens (results stay the same), fewer evals.rows, a smaller model, or fewer other "
            "programs beside this one; `tunesmith doctor` shows what is free",
            FAILED,
        )
    if isinstance(error, ImportError) and not (error.name or "").startswith("tunesmith"):
        return f"a package cannot be used: {error}. `tunesmith doctor` says which one and what to install", FAILED
    return None


def own_fault(error: Exception, folder: Path) -> str:
    """One line of what happened, and where the rest stands."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    shown = what if len(what) <= 300 else what[:300] + " …"
    story = "".join(traceback.format_exception(error))
    try:
        path = written(story, folder)
    except OSError as why:  # a full disk, say: then it has to stand here
        sys.stderr.write(masked(story))
        path = f"what stands above (no file could be written: {why})"
    return (
        f"this is a fault of tunesmith, not yours: {shown}{where}.\n"
        f"  The whole story: {path}\n"
        "  Please report it to the project's issues with that file; it names your paths and may quote your data, so "
        f"read it first.\n  {DEBUG}=1 shows it on the screen."
    )


def written(story: str, folder: Path) -> str:
    """The path of a file with the traceback, the command, and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("tunesmith", "torch", "transformers", "peft"))
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\ncommand: {sys.argv[1:]}\n{versions}\n"
    head += f"Python {platform.python_version()}, {platform.platform()}\n\n"
    handle, name = tempfile.mkstemp(prefix="tunesmith_error_", suffix=".txt", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(masked(head + story))
    return name


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
