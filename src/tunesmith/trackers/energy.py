"""Energy and CO2e of a run, by codecarbon without a network: the country is said, never looked up.

Processors whose counters may be read (RAPL) and NVIDIA's GPUs are measured; else energy is estimated from load and
rated power, and memory always is. Every figure says which of both it is.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.errors import InputError, did_you_mean
from tunesmith.files import read_json, write_json

NAME = "energy.json"
EVERY_S = 10.0
COUNTERS = ("intel_rapl", "intel_power_gadget", "windows_emi")  # codecarbon's names of what is measured


class Meter:
    """Counts while it is entered. A run that was stopped and resumed has a row for each sitting."""

    def __init__(self, country: str | None, folder: Path) -> None:
        self.country, self.folder = country, folder
        self.live: Any = None
        if country is None:
            return
        if importlib.util.find_spec("codecarbon") is None:
            raise InputError(
                "energy names a country, but codecarbon is not installed: `pip install 'tunesmith[energy]'`, or take "
                "energy out of the recipe"
            )
        known = known_countries()
        if country not in known:
            raise InputError(
                f"energy is {country!r}; wanted the three letters of the country whose electricity it is, such as DEU "
                f"or USA.{did_you_mean(country.upper(), known)}"
            )

    def __enter__(self) -> Meter:
        if self.country is not None:
            from codecarbon import OfflineEmissionsTracker  # seconds to import, for those who ask for it

            self.live = OfflineEmissionsTracker(
                country_iso_code=self.country, tracking_mode="process", measure_power_secs=EVERY_S,
                save_to_file=False, save_to_api=False, save_to_logger=False, allow_multiple_runs=True,
                log_level="critical",
            )  # fmt: skip
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends this sitting and keeps its row; a second time it does nothing."""
        if self.live is None:
            return
        live, self.live = self.live, None
        live.stop()
        modes = [getattr(part, "_mode", type(part).__name__.lower()) for part in live._hardware]
        path = self.folder / NAME
        write_json(path, [*kept(self.folder), reading(live.final_emissions_data, modes)])


def known_countries() -> list[str]:
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # else it speaks before its own log_level is read
    from codecarbon.input import DataSource

    return sorted(DataSource().get_global_energy_mix_data())


def reading(data: Any, modes: Sequence[str]) -> dict[str, Any]:
    """One sitting: kWh by part, kg of CO2e, and how they came about."""
    cpu = "measured" if any(m in COUNTERS for m in modes) else "estimated from load and rated power"
    return {
        "kwh": data.energy_consumed, "co2e_kg": data.emissions, "country": data.country_iso_code,
        "seconds": data.duration, "cpu_kwh": data.cpu_energy, "gpu_kwh": data.gpu_energy, "ram_kwh": data.ram_energy,
        "how": {"cpu": cpu, "gpu": "measured", "ram": "estimated"}, "codecarbon": data.codecarbon_version,
    }  # fmt: skip


def kept(folder: Path) -> list[dict[str, Any]]:
    path = folder / NAME
    return read_json(path) if path.is_file() else []


def summed(folder: Path) -> dict[str, Any]:
    """For cost.json: all sittings together; nothing where energy was not counted."""
    rows = kept(folder)
    if not rows:
        return {}
    how = {part: rows[-1]["how"][part] for part in ("cpu", "gpu", "ram") if any(r[f"{part}_kwh"] for r in rows)}
    total = {key: sum(r[key] for r in rows) for key in ("kwh", "co2e_kg")}
    return {"energy": {**total, "country": rows[-1]["country"], "how": how}}
