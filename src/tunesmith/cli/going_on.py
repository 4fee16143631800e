"""A command that can be stopped: the terminal is given back, and what goes on is said to the letter."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunesmith.cli.faults import InFolder
from tunesmith.cli.screen import Screen
from tunesmith.errors import Interrupted, TunesmithError


@contextmanager
def going_on(command: str, folder: Path, flags: Sequence[str] = (), *, quiet: bool) -> Iterator[Screen]:
    """A screen for `tunesmith COMMAND --out FOLDER`; a signal inside ends in Interrupted with the command to type."""
    try:
        with Screen(quiet=quiet) as tell:
            yield tell
    except (Interrupted, KeyboardInterrupt) as error:
        if not any(folder.glob("recipe.yaml")) and not any(folder.glob("seed_*/recipe.yaml")):
            raise Interrupted("stopped before anything was done: the same command starts again") from None
        said = str(error) or "stopped at once; what was kept before is whole; --resume goes on with it"
        words = ["tunesmith", command, "--out", str(folder), "--resume", *flags]
        raise Interrupted(f"{said}:\n  {shlex.join(words)}") from None
    except TunesmithError:
        raise
    except Exception as error:
        raise InFolder(folder) from error
