"""R17: a million rows in the memory of a hundred thousand, +10%, each rejected one named by file and line.

Each size runs in a process of its own, since what is counted is the most memory the process ever had (the kernel's
VmHWM). CI measures what a row adds between two smaller sizes; TUNESMITH_ROWS=1000000, in `make torture`, prepares and
trains on a million and on a tenth of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.faults import many_rows
from tests.runs import tiny_runs

SMALL, LARGE = 20_000, 160_000  # so many that a MiB of chance is 8 bytes a row
PROCESS_MIB = 560  # of the least that can train: torch, transformers and a model of a few thousand weights
MOST_BYTES = 0.1 * PROCESS_MIB * 2**20 / 900_000  # a row may add, if 900,000 more are to add no more than 10%


def measured(path: Path, num: int, model: Path | None = None, **options: str) -> dict[str, Any]:
    many_rows.written(path, num)
    command = [sys.executable, "-m", "tests.faults.many_rows", str(path), *([str(model)] if model else [])]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **options}, cwd=Path(__file__).parents[2]
    )
    path.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{num:,} rows: {found}")
    assert found["rows"] == num == found["accepted"] + found["rejected"]
    assert found["rejected"] == len(range(7, num, many_rows.BAD_EVERY))
    line = 8 if path.suffix != ".csv" else 9  # behind the header
    assert found["first"] == {"file": str(path), "line": line, "reason": "the reply (column 'completion') is empty"}
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> float:
    return float(measured(tmp_path_factory.mktemp("rows") / "rows.csv", SMALL)["peak_mib"])


def bytes_a_row(small: float, folder: Path, large: int = LARGE, **options: str) -> float:
    """What each row more adds to the peak."""
    peak = measured(folder / "rows.csv", large, **options)["peak_mib"]
    found = float(peak - small) * 2**20 / (large - SMALL)
    print(f"{found:.1f} bytes a row")
    return found


def test_a_row_adds_so_little_that_a_million_stay_within_a_tenth(small: float, tmp_path: Path) -> None:
    assert bytes_a_row(small, tmp_path) <= MOST_BYTES


def test_rows_in_a_list_would_be_noticed(small: float, tmp_path: Path) -> None:
    assert bytes_a_row(small, tmp_path, LARGE // 2, TUNESMITH_MUTANT="list") > 3 * MOST_BYTES


@pytest.mark.skipif("TUNESMITH_ROWS" not in os.environ, reason="make torture: minutes")
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_the_whole_of_it(tmp_path: Path, form: str) -> None:
    num = int(os.environ["TUNESMITH_ROWS"])
    model = tiny_runs.model_folder(tmp_path / "model") if form == "jsonl" else None
    tenth, whole = (measured(tmp_path / f"rows.{form}", n, model) for n in (num // 10, num))
    assert whole["peak_mib"] <= 1.1 * max(tenth["peak_mib"], PROCESS_MIB if model is None else 0)
