"""What a tracker is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "tunesmith"


@dataclass(frozen=True, slots=True)
class Asked:
    """`run_id` is what the tracker called this run before a resume; None: it is a new one."""

    name: str
    folder: Path  # of the run: what a tracker keeps on this machine stands there
    settings: Mapping[str, Any]
    run_id: str | None

    def flat(self) -> dict[str, Any]:
        """The settings under dotted keys."""
        return dotted(self.settings)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
