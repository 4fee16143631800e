"""The step of a run that makes label probabilities mean what they say: calibration.json."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith import evaluate
from tunesmith.build import Material
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.evals.calibration import Calibration, fit, held_out
from tunesmith.evals.tasks import references
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe
from tunesmith.types import Example

NAME = "calibration.json"


def calibrate(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot, tuned: evaluate.Asked
) -> None:
    """Fit on dev, measure on the held-out cases (whose answers, `tuned`, are there already). Kept over a resume."""
    if not made.is_one_label or folder.read(NAME) is not None:
        return
    dev = made.calibration
    sitting = folder.sitting("calibration", "tuned on dev, to calibrate its probabilities")
    asked = evaluate.ask(session, snapshot, recipe, made, made.forms[0], dev, sitting)
    found = fit(label_logps(asked, made.labels), gold(dev, made.labels), recipe.evals.sure_accuracy)
    test = held_out(label_logps(tuned, made.labels), gold(made.split.test, made.labels), found)
    folder.write(NAME, {**found.facts(), "labels": made.labels, "held_out": test})
    sitting.forget()
    folder.tell.say(in_words(found))


def label_logps(asked: evaluate.Asked, labels: Sequence[str]) -> np.ndarray:
    """[n, C] nats of each label, as the answers kept them."""
    return np.array([a.label_logps for a in asked.answers], dtype=float).reshape(-1, len(labels))


def gold(cases: Sequence[Example], labels: Sequence[str]) -> np.ndarray:
    """[n] index of the right label."""
    at = {label: i for i, label in enumerate(labels)}
    return np.array([at[name] for name in references(cases)], dtype=int)


def in_words(found: Calibration) -> str:
    """One line for a person."""
    if not found.is_usable:
        return f"{found.num_dev} dev cases are too few to calibrate probabilities: they stay as the model gives them"
    start = f"probabilities calibrated on {found.num_dev} dev cases (temperature {found.temperature:.2f})"
    if found.threshold is None:
        return f"{start}; at no probability are {found.target:.0%} of the dev answers right, so all answers are unsure"
    return (
        f"{start}; answers below {found.threshold:.2f} are unsure, of those above {found.target:.0%} were right on dev"
    )
