"""Texts that belong to none of a task's labels. A classifier has to choose one all the same; it should not be sure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.evals import stats

TEXTS = (
    "Knight to f3, bishop to b5, castles.",
    "for i in range(10): print(i ** 2)",
    "qwoei zxmcn alskdj fghty urnv",
    "7 14 21 28 35 42 49",
    "Whisk two eggs with a pinch of salt and fold in the flour.",
    "The mitochondrion is bounded by two membranes.",
    "SELECT name FROM birds WHERE wingspan > 40 ORDER BY name;",
    "Der Zug nach Hamburg fährt heute von Gleis neun.",
    "A fugue opens with its subject in one voice alone.",
    "the the the the the the the the",
    "Water boils at a lower temperature on a mountain.",
    "Turn left at the mill, then follow the stream for a mile.",
    "…",
    "x² + 5x + 6 = (x + 2)(x + 3)",
    "El faro se enciende cada noche a las ocho.",
    "Once a fox met a crow who carried a piece of cheese.",
    "<div class='box'><p>lorem</p></div>",
    "Saturn takes about twenty-nine years to go round the sun.",
    "ZZZZ-0000-ZZZZ-0000",
    "Cast on forty stitches and knit two rows in plain stocking stitch.",
    "Un poème de douze vers sur la pluie en avril.",
    "The treaty was signed in a railway carriage in a forest.",
    "do re mi fa sol la ti do",
    "Granite is made of quartz, feldspar and mica.",
    "!!! ??? ,,, ... ;;;",
    "In the third act the duke returns in disguise.",
    "git rebase --interactive HEAD~3",
    "Two parallel lines are cut by a third; the angles are equal.",
    "The tide table for the harbour begins on page four.",
    "Ett äpple, två päron och tre plommon.",
    "Prune the roses when the forsythia blooms.",
    "0110 1001 1110 0001",
)
ELSE = re.compile(r"^(other|others|none|unknown|misc|no|na|oos|out of scope|something else|not applicable|else)$")
SURE = 0.9  # probability from which an answer counts as sure where nothing was calibrated
MOST_SURE = 0.2  # share of sure answers above which, when it is shown, the verdict warns


def is_else(label: str) -> bool:
    """Whether the label is made for what fits nowhere."""
    return ELSE.match(re.sub(r"[^a-z]+", " ", label.lower()).strip()) is not None


def sure_share(
    sure: Sequence[bool], labels: Sequence[str], sure_held_out: float | None, alpha: float
) -> dict[str, Any]:
    """How many of the texts were answered with a label and without doubt, with Wilson's interval. An answer with a
    label made for such texts is right, and counts as none."""
    wrong = np.array([is_sure and not is_else(label) for is_sure, label in zip(sure, labels, strict=True)], dtype=float)
    share = float(wrong.mean())
    centred = (wrong - share) / len(wrong)
    interval = stats.score_interval(share, centred, (0.0, 1.0), is_binary=True, alpha=alpha)
    return {"num_texts": len(wrong), "sure_frac": share, "interval": interval, "sure_held_out_frac": sure_held_out}


def notes(found: dict[str, Any] | None) -> list[str]:
    if found is None or found["interval"][0] <= MOST_SURE:
        return []
    return [
        f"sure of what it cannot know: {found['sure_frac']:.0%} of {found['num_texts']} texts that belong to no label "
        "were answered without doubt. Add a label for what fits nowhere, with examples, or filter inputs before."
    ]
