"""The pages of a run, written whenever there is something new to see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tunesmith import evaluate
from tunesmith.build import Material
from tunesmith.folder import RunFolder
from tunesmith.report import card, html
from tunesmith.trackers import energy


def write_reports(out: Path) -> None:
    html.write(out)
    card.write_report(out)


def report_base(folder: RunFolder, made: Material, asked: evaluate.Asked) -> None:
    """The base's cases and a first report, so that a run that stops later has something to show."""
    if folder.read("verdict.json") is not None:
        return
    table = evaluate.case_table(made, asked, asked)
    of_tuned = [name for name in table.column_names if name.startswith("tuned_") or name in ("changed", "turns")]
    pq.write_table(table.drop_columns(of_tuned), folder.path / "scores" / "cases.parquet")
    write_reports(folder.path)


def finish_reports(folder: RunFolder) -> None:
    folder.tell.stage("report", None)
    write_reports(folder.path)
    for name in folder.read("export.json"):
        card.write_model_card(folder.path, folder.path / name)


def cost_of(folder: RunFolder, verdict: Mapping[str, Any], span: float) -> dict[str, Any]:
    """Time, memory, energy; and where something was gained, what each hundredth of the metric's range has cost."""
    cost = folder.cost() | energy.summed(folder.path)
    points = 100 * verdict["effect"] / span
    if verdict["decision"] == "better" and points > 0:
        counted = cost.get("energy", {})
        cost["per_point"] = {"seconds": cost["total_s"] / points} | {
            key: counted[key] / points for key in ("kwh", "co2e_kg") if key in counted
        }
    return cost
