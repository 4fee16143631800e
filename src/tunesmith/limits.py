"""Which strengths of regularisers and objectives are strengths at all."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.errors import RecipeError
from tunesmith.objectives.goal import Goal
from tunesmith.objectives.kto import Kto
from tunesmith.objectives.preference import Preference
from tunesmith.regularisers.strengths import Regularise


def check_strengths(regularise: Regularise, objective: Goal, off_at_0: Mapping[str, float]) -> None:
    """RecipeError at the first that is none. `off_at_0`: others that are off at 0 and have no upper end."""
    r, o = regularise, objective
    at_least_0 = {
        "regularise.l2sp": r.l2sp, "regularise.kl": r.kl, "regularise.ewc": r.ewc,
        "regularise.neftune": r.neftune, "regularise.rdrop": r.rdrop,
        "objective.focal": o.focal, "objective.reward.margin": o.reward.margin,
        "objective.reward.centre": o.reward.centre, **off_at_0,
    }  # fmt: skip
    below_1 = {
        "regularise.mixout": r.mixout, "objective.smoothing": o.smoothing, "objective.contrastive": o.contrastive,
    }  # fmt: skip
    for key, value in at_least_0.items():
        if not value >= 0:
            raise RecipeError(f"{key} is {value}; wanted 0, which is off, or a number above it")
    for key, value in below_1.items():
        if not 0 <= value < 1:
            raise RecipeError(f"{key} is {value}; wanted a fraction from 0, which is off, up to (not including) 1")
    if not 0 <= o.distil.share <= 1:
        raise RecipeError(f"objective.distil.share is {o.distil.share}; wanted a share from 0, which is off, to 1")
    if not o.distil.temperature > 0:
        raise RecipeError(f"objective.distil.temperature is {o.distil.temperature}; wanted a number above 0")
    if bool(o.distil.share) != bool(o.distil.teacher):
        raise RecipeError(
            "objective.distil wants both teacher (a model with the same tokenizer) and share (above 0), or neither"
        )
    check_pairs(o.preference)
    check_marks(o.kto)
    if 0 < o.focal < 1:
        raise RecipeError(f"objective.focal is {o.focal}; wanted 0 or at least 1: below 1 its slope has no end")


def check_marks(asked: Kto) -> None:
    if not asked.beta > 0:
        raise RecipeError(f"objective.kto.beta is {asked.beta}; nothing is learned at 0. Wanted a number above it")
    for name, value in (("desirable", asked.desirable), ("undesirable", asked.undesirable)):
        if not value > 0:
            raise RecipeError(f"objective.kto.{name} is {value}; wanted a weight above 0 (1: as it stands)")


def check_pairs(asked: Preference) -> None:
    key = "objective.preference"
    if asked.beta is not None and not asked.beta > 0:
        raise RecipeError(f"{key}.beta is {asked.beta}; nothing is learned at 0. Wanted a number above it (0.1: usual)")
    smoothing = asked.label_smoothing
    if smoothing is not None and not 0 <= smoothing < 0.5:
        raise RecipeError(f"{key}.label_smoothing is {smoothing}; wanted a share from 0 up to (not including) 0.5")
    for name, value in (("gamma", asked.gamma), ("nll", asked.nll)):
        if value is not None and not value >= 0:
            raise RecipeError(f"{key}.{name} is {value}; wanted 0 or a number above it")
