"""The command line. Python and typer take a moment to come up, in which Ctrl-C is no reason for a traceback either."""

from __future__ import annotations

import sys
from types import TracebackType

_before = sys.excepthook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("stopped before it began\n")
    else:
        _before(kind, error, trace)


sys.excepthook = _hook
