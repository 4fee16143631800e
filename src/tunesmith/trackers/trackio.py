"""trackio: the user's local trackio folder (TRACKIO_DIR), or the space or server that its own variables name."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any

from tunesmith.trackers.asked import PROJECT, Asked


def mute() -> contextlib.AbstractContextManager[object]:
    """trackio prints how to look at a run to standard output, which belongs to the result of the command."""
    return contextlib.redirect_stdout(io.StringIO())


class Trackio:
    def __init__(self, asked: Asked) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.run_id = asked.run_id or f"{asked.name}-{os.urandom(3).hex()}"  # trackio finds a run by its name
        self.finish = trackio.finish
        with mute():
            self.run = trackio.init(
                project,
                name=self.run_id,
                resume="never" if asked.run_id is None else "must",
                config=asked.flat(),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.place = f"trackio show --project {project}  (run {self.run_id})"

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        self.run.log({k: v for k, v in facts.items() if k != "update"}, step=update)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            self.run.log({f"verdict/{name}": value for name, value in summary.items()})
        with mute():
            self.finish()  # the package's own: what only the run knows to be finished, it finishes again at exit
