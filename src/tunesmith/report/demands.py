"""gates.json in sentences: what the recipe demanded before the run, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Gates = Sequence[Mapping[str, Any]]


def summary(gates: Gates | None) -> str:
    """For the first screen; "" where nothing was demanded."""
    failed = [str(g["name"]) for g in gates or () if not g["passed"]]
    if failed:
        return f" What the recipe demands is not met: {', '.join(failed)}."
    return " All that the recipe demands is met." if gates else ""


def sentences(gates: Gates | None) -> tuple[tuple[str], ...]:
    """One for each demand."""
    return tuple(
        (f"Demanded, and {'met' if g['passed'] else 'not met'}: {g['name']}, {g['wanted']}. Found: {g['found']}.",)
        for g in gates or ()
    )
