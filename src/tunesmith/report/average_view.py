"""average.json as the page and report.md print it: the line from the tuned weights to the base's (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts, words
from tunesmith.report.robustness_view import RobustnessView, Sheet

Facts = Mapping[str, Any]


def nearer(found: Facts) -> RobustnessView:
    chosen = found["base_share"]
    why = "it has the least loss on dev" if found["why"] == "least loss on dev" else "the recipe says so"
    said = (
        f"The run's weights have {percent(chosen)} of the base's, since {why}: 0% is the tuned model, 100% the base.",
        "Dev was looked at for the choice, so its loss flatters a little; the verdict is of the held-out cases.",
    )
    rows = tuple(
        (
            percent(row["base_share"]) + (", the run's" if row["base_share"] == chosen else ""),
            f"{row['dev_loss']:.4f}",
            words.NOT_KNOWN if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}",
        )
        for row in found["tried"]
    )
    caption = (
        "Less is better in both columns: what the run is for, and the guard's general text, where what was known shows"
    )
    head = ("Share of the base", "Loss on dev, nats per token", "General text, bits per byte")
    return RobustnessView(said, (Sheet("Weights between the tuned model and the base", caption, head, rows),))


def trade_off(found: Facts) -> Markup | None:
    """Loss on dev against general text, a point a share; None where general text cannot be read."""
    rows = found["tried"]
    if any(row["bits_per_byte"] is None for row in rows):
        return None
    points = [(row["bits_per_byte"], row["dev_loss"], percent(row["base_share"])) for row in rows]
    chosen = next((k for k, row in enumerate(rows) if row["base_share"] == found["base_share"]), -1)
    axes = ("bits per byte of general text", "loss on dev, nats per token")
    return charts.trade_off(points, chosen, axes, f"Loss on dev against general text at {len(rows)} shares of the base")


def percent(share: float) -> str:
    return f"{100 * share:g}%"
