"""What a launched command ends with. torch starts processes again that end with an error, so the leader leaves its exit
code in a file where a new start would change nothing: a mistake, a gate that was not met, Ctrl-C.

Nothing heavy is imported here: every command passes by.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "TUNESMITH_LAUNCH"  # of the launcher, for these files; set by --processes alone
CODE, PROCESS = "exit_code", "leader"


def place() -> Path | None:
    """None where nobody launched this process so."""
    said = os.environ.get(FOLDER)
    return Path(said) if said else None


def begin() -> bool:
    """Whether there is something to do: not where the leader has ended before its followers were started again."""
    folder = place()
    if folder is None:
        return True
    if os.environ["RANK"] == "0":
        (folder / PROCESS).write_text(str(os.getpid()))
    return not (folder / CODE).is_file()


def noted(code: int) -> int:
    """The code that the process itself ends with."""
    folder = place()
    if folder is None or os.environ["RANK"] != "0":
        return code
    (folder / CODE).write_text(str(code))
    return 0


def ended(folder: Path) -> int | None:
    """What the leader left; None where it was lost."""
    path = folder / CODE
    return int(path.read_text()) if path.is_file() else None


def leader(folder: Path) -> int | None:
    """Its process; None where it was not started yet."""
    path = folder / PROCESS
    return int(path.read_text()) if path.is_file() else None
