"""What `tunesmith sweep --range` found: a page that needs no network, and its sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts
from tunesmith.report.html import make_environment
from tunesmith.report.sweep_page import BASE, LEFT, RIGHT, TOP, frame


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What a reader has to know; the first sentence is the answer."""
    num = len(facts["rates"])
    said = [
        f"Take {facts['lr']:.2g}: a tenth of {facts['least_at']:.2g}, the rate at which the smoothed loss was least. "
        f"auto would take {facts['usual']:.2g} for a run of 100 updates."
    ]
    if facts["ended"]:
        said.append(f"The training ended after {num} of {facts['num_updates']} updates: {facts['ended']}.")
    elif facts["least_at"] == facts["rates"][-1]:
        said.append("The loss still fell at the highest rate: what is too high was not seen.")
    return [*said, "Each rate was seen for one update: a first guess. With --try lr=… rates are compared on dev."]


def page(facts: Mapping[str, Any], name: str) -> str:
    template = make_environment().get_template("range.html")
    return template.render(name=name, facts=facts, said=summary(facts), figure=picture(facts))


def picture(facts: Mapping[str, Any]) -> Markup:
    """The rate across, by factors; the loss up: a mark for each update, a line where it is smoothed. Losses above
    the line's highest point are drawn at that height."""
    rates, smoothed = facts["rates"], facts["smoothed"]
    most = max(smoothed)
    parts, heights = frame([*(min(v, most) for v in facts["losses"]), *smoothed])
    first, last = math.log(rates[0]), math.log(rates[-1])
    x = lambda rate: LEFT + 8 + (math.log(rate) - first) / (last - first or 1) * (RIGHT - LEFT - 16)
    for rate, y in zip(rates, heights):
        parts.append(f'<circle cx="{x(rate):.1f}" cy="{y:.1f}" r="2" class="mark"/>')
    parts.append(charts.path([(x(r), y) for r, y in zip(rates, heights[len(rates) :])], "line"))
    for rate in (rates[0], facts["lr"], facts["least_at"]):
        parts.append(charts.text(x(rate), BASE + 18, f"{rate:.1e}", "tick"))
    parts += [charts.line(x(facts[key]), TOP, x(facts[key]), BASE, css)
              for key, css in (("lr", "zero"), ("least_at", "axis"))]  # fmt: skip
    return charts.svg(BASE + 24, parts, "Training loss while the learning rate rises", "curve")
