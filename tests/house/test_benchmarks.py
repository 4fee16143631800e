"""docs/benchmarks.md says what bench/results/ says, and a ratio that fell is printed in red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench import pages, records
from tests.house.source import ROOT

HERE = {"processor": "A", "units": "AMX", "threads": 2}


def line(ratio: float, *, job: str = "supervised", machine: dict[str, Any] = HERE) -> dict[str, Any]:
    ratios = {"TRL": records.compared([10 * ratio], [10.0], "tokens/s")}
    return {
        "date": "2026-11-22",
        "job": job,
        "machine": machine,
        "versions": {"torch": "2"},
        "settings": {},
        "ratios": ratios,
    }


def test_the_page_is_made_from_the_records() -> None:
    stale = [name for name, text in pages.made().items() if (ROOT / "docs" / name).read_text(encoding="utf-8") != text]
    assert stale == [], "python bench/pages.py makes them again"


def test_the_page_follows_a_record(tmp_path: Path) -> None:
    path = tmp_path / "speed.jsonl"
    path.write_text(json.dumps(line(1.5)) + "\n")
    before = pages.made(tmp_path)
    assert "**1.50**" in before[pages.PAGE]
    assert "Ratios over time" not in before[pages.PAGE]
    with path.open("a") as out:
        out.write(json.dumps(line(2.25)) + "\n" + json.dumps({"date": "2026-11-23", "what": "other"}) + "\n")
    after = pages.made(tmp_path)
    assert "**2.25**" in after[pages.PAGE]
    assert "**1.50**" not in after[pages.PAGE]
    assert "supervised, TRL: 1.50 (2026-11-22), 2.25 (2026-11-22)" in after[pages.PAGE]
    assert "- `bench/results/speed.jsonl`" in after[pages.PAGE]
    assert before["benchmarks/ratios_1.svg"] != after["benchmarks/ratios_1.svg"]


@pytest.mark.parametrize(("now", "is_red"), [(1.79, True), (1.8, True), (1.81, False), (2.5, False)])
def test_a_fall_by_a_tenth_is_red(now: float, *, is_red: bool) -> None:
    assert (records.RED in records.told(line(now), [line(3.0), line(2.0)])) is is_red


@pytest.mark.parametrize(
    "other",
    [
        line(2.0, job="preferences"),
        line(2.0, machine={**HERE, "processor": "B"}),
        line(2.0, machine={**HERE, "units": "none"}),
        line(2.0, machine={**HERE, "threads": 16}),
        line(2.0, machine={**HERE, "device": "a GPU"}),
        {"date": "2026-11-22", "what": "no comparison"},
    ],
)
def test_another_job_or_kind_of_machine_is_not_compared(other: dict[str, Any]) -> None:
    assert records.RED not in records.told(line(1.0), [other])
    assert records.RED in records.told(line(1.0), [line(2.0), other]), "the one before it is"


def test_seconds_are_compared_the_other_way_round() -> None:
    assert records.compared([2.0], [6.0], "s", less_is_better=True)["ratio"] == 3.0
    assert records.compared([2.0], [6.0], "tokens/s")["ratio"] == pytest.approx(1 / 3)
