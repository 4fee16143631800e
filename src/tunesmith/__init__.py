"""tunesmith: fine-tunes pre-trained language models and proves that the result is better.

    import tunesmith as ts

    run = ts.run(data="tickets.csv", model="smollm2-135m-instruct")
    print(run.decision, run.report)
    run.predict(["Where is my order?"])

Names are loaded when they are first used, so that `import tunesmith` costs nothing (PEP 562).
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunesmith.api import Run, load, run
    from tunesmith.errors import InputError, Interrupted, RunError, TunesmithError
    from tunesmith.folder import Silent
    from tunesmith.predict import Prediction

# Read by the packages below when they are imported: none of them is to report that it was used.
NO_TELEMETRY = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)

__all__ = ["InputError", "Interrupted", "Prediction", "Run", "RunError", "Silent", "TunesmithError", "load", "run"]

PARTS = {
    "api": ("Run", "load", "run"),
    "errors": ("InputError", "Interrupted", "RunError", "TunesmithError"),
    "folder": ("Silent",),
    "predict": ("Prediction",),
}
WHERE = {name: part for part, names in PARTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class Package(ModuleType):
    """`ts.run` is the function. There is a module of that name too, which its import would put in the place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in WHERE or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package
