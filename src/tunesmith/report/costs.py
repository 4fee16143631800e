"""What a run cost beside its time: energy and CO2e where they were counted, and the price of a point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.report import words


def beside_time(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, figure in words); empty where nothing was counted or gained."""
    said = []
    counted = cost.get("energy")
    if isinstance(counted, Mapping):
        how = "; ".join(f"{part} {way}" for part, way in (counted.get("how") or {}).items())
        said.append(("Energy", f"{amount(counted.get('kwh'), 'kWh')} ({how})"))
        said.append(("CO2e", f"{amount(counted.get('co2e_kg'), 'kg')}, electricity of {counted.get('country')}"))
    point = cost.get("per_point")
    if isinstance(point, Mapping):
        rest = [amount(point[key], unit) for key, unit in (("kwh", "kWh"), ("co2e_kg", "kg CO2e")) if key in point]
        said.append(("Each point gained, of 100", ", ".join([words.duration(point.get("seconds")), *rest])))
    return said


def amount(value: Any, unit: str) -> str:
    """A quantity in the unit in which it is read easily: kWh and kg down to thousandths of them."""
    if not isinstance(value, (int, float)):
        return words.NOT_KNOWN
    return f"{value:.3g} {unit}" if value >= 1 else f"{1000 * value:.3g} {unit[1:]}"
