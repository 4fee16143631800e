"""Energy: counted without a network, said to be measured or estimated, summed over sittings."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from tunesmith.errors import InputError
from tunesmith.report.costs import amount, beside_time
from tunesmith.trackers import energy

pytest.importorskip("codecarbon")


def burn() -> int:
    return sum(i * i for i in range(300_000))


def test_a_real_meter_with_the_network_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for _ in range(2):  # a run and its resume
        with energy.Meter("DEU", tmp_path) as meter:
            burn()
            meter.stop()  # the end of the run; leaving does not count twice
    rows = json.loads((tmp_path / energy.NAME).read_text())
    assert len(rows) == 2
    assert all(r["kwh"] > 0 and r["co2e_kg"] > 0 and r["country"] == "DEU" for r in rows)
    total = energy.summed(tmp_path)["energy"]
    assert total["kwh"] == pytest.approx(rows[0]["kwh"] + rows[1]["kwh"])
    assert total["how"]["ram"] == "estimated"


def test_without_a_country_nothing_is_counted(tmp_path: Path) -> None:
    with energy.Meter(None, tmp_path):
        pass
    assert energy.summed(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_country_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wanted the three letters .* Did you mean DEU"):
        energy.Meter("deu", tmp_path)


def test_measured_and_estimated_are_told_apart() -> None:
    names = ("energy_consumed", "emissions", "duration", "cpu_energy", "gpu_energy", "ram_energy")
    data = SimpleNamespace(country_iso_code="FRA", codecarbon_version="3", **dict.fromkeys(names, 1.0))
    assert energy.reading(data, ["ram", "intel_rapl"])["how"]["cpu"] == "measured"
    assert energy.reading(data, ["ram", "cpu_load"])["how"]["cpu"].startswith("estimated")


def test_words() -> None:
    cost = {
        "energy": {"kwh": 0.0123, "co2e_kg": 0.004, "country": "DEU", "how": {"cpu": "measured", "ram": "estimated"}},
        "per_point": {"seconds": 90, "kwh": 0.001, "co2e_kg": 0.0005},
    }
    assert beside_time(cost) == [
        ("Energy", "12.3 Wh (cpu measured; ram estimated)"),
        ("CO2e", "4 g, electricity of DEU"),
        ("Each point gained, of 100", "1 min 30 s, 1 Wh, 0.5 g CO2e"),
    ]
    assert beside_time({"total_s": 3}) == []
    assert (amount(2.5, "kWh"), amount(None, "kWh")) == ("2.5 kWh", "not known")
