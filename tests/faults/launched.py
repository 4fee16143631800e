"""`tunesmith train --processes` as its processes run it, in forks of the fork server: no interpreter starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tunesmith.cli.main import main
from tunesmith.engine.ranks import PATIENCE
from tunesmith.errors import InputError
from tunesmith.exits import FOLDER


def command(out: str, launch: str, patience_s: str, *words: str) -> None:
    """What torch's launcher starts, once for each rank. All that it prints goes to a file. The fork server has another
    environment than who launches."""
    os.environ |= {FOLDER: launch, PATIENCE: patience_s}
    with (Path(out).parent / "said.log").open("a") as said:
        sys.stdout = sys.stderr = said
        sys.argv = ["tunesmith", "train", *words, "--out", out]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise


def halved(number: int) -> int:
    """Work for a task of Ray's, which finds it by its name."""
    if number % 2:
        raise InputError("odd")
    return number // 2
