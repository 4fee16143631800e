"""Answers kept batch by batch, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]  # done, of
ROUND = "_round_"  # in the names of files


class Sitting:
    """One model asked some cases. `path`: where what it gave so far is kept (None: nowhere); `between` is called after
    each batch that was kept, and may raise.

    The file holds a line that says which asking it is of, then a line a batch. Half a line, of a write that was cut
    off, is forgotten; so is the whole file when it is of another asking.
    """

    def __init__(self, progress: Progress, path: Path | None = None, between: Callable[[], None] | None = None) -> None:
        self.progress, self.path, self.between = progress, path, between

    def begin(self, key: str) -> dict[int, Any]:
        """What an earlier sitting of the same key left, by number. What it cannot use is removed."""
        if self.path is None:
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        whole = [row for row in map(parsed, lines) if row is not None]
        if not whole or whole[0] != {"key": key}:
            whole = [{"key": key}]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".partial_{self.path.name}")
        partial.write_text("".join(json.dumps(row) + "\n" for row in whole), encoding="utf-8")
        os.replace(partial, self.path)
        return {int(number): value for row in whole[1:] for number, value in row.items()}

    def keep(self, fresh: Mapping[int, Any]) -> None:
        """A batch, on the disk before anything else happens."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(fresh) + "\n")
                out.flush()
                os.fsync(out.fileno())
        if self.between is not None:
            self.between()

    def later(self, number: int, done: int, total: int) -> Sitting:
        """The same asking goes on with a round that depends on the ones before it, behind `done` answers of `total`."""
        path = self.path
        if path is not None and number > 0:
            path = path.with_name(f"{path.stem}{ROUND}{number}{path.suffix}")
        return Sitting(lambda fresh, _: self.progress(done + fresh, total), path, self.between)

    def forget(self) -> None:
        """The answers of all rounds are kept elsewhere now."""
        if self.path is not None:
            for path in (self.path, *self.path.parent.glob(f"{self.path.stem}{ROUND}*")):
                path.unlink(missing_ok=True)


def parsed(line: str) -> dict[str, Any] | None:
    """The object of a line; None where the line is not whole."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
