"""What a reward model gives to held-out replies: does the better one get the higher score, and does the difference say
how often it is the better one?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

import numpy as np

from tunesmith.evals.calibration import bins
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.preference import gaps
from tunesmith.evals.score import Answer, by_example
from tunesmith.evals.tasks import given_replies
from tunesmith.measured import Asking
from tunesmith.preferences import PREFERS, of_given
from tunesmith.types import Example

OF_SCORES = ("reward_accuracy", "reward_loss", "reward_margin")


def asked(asking: Asking) -> list[Answer]:
    """Which reply of each case gets the higher score, with what the metrics of scores read."""
    found = of_given(asking, lambda forest: by_example(forest, asking.session.scores(asking.who, [forest])[0]))
    return [answer_of(scores) for scores in found]


def answer_of(scores: Sequence[float]) -> Answer:
    measured = tuple(chain.from_iterable(combinations(scores, 2)))
    share = METRICS["reward_accuracy"].case(measured, None)
    text = PREFERS["rejected" if share < 0.5 else "chosen" if share > 0.5 else "neither"]
    return Answer(text, stopped=True, num_tokens=0, measured=dict.fromkeys(OF_SCORES, measured))


def simple(cases: Sequence[Example]) -> dict[str, list[tuple[float, ...]]]:
    """Rules that read nothing, as scores: what a reward model has to beat."""
    sizes = [[float(len(reply.content)) for reply in given_replies(e)] for e in cases]
    rules = {"the shorter reply": -1.0, "the longer reply": 1.0}
    return {
        name: [tuple(chain.from_iterable(combinations([sign * n for n in each], 2))) for each in sizes]
        for name, sign in rules.items()
    }


def notes(tuned: Sequence[Answer]) -> list[str]:
    """What a reader of the verdict on scores must know beside it."""
    found = calibration(tuned)
    said = f"it was {found['confidence']:.0%} sure on average, and right in {found['accuracy']:.0%} of the pairs"
    return [
        f"taken as log odds, the difference of two scores says how sure it is: {said} (expected calibration error "
        f"{found['ece']:.3f}). An untrained head gives 0 to all replies, which is 0.5."
    ]


def calibration(answers: Sequence[Answer]) -> Mapping[str, float]:
    """Of all pairs: how sure sigmoid(difference) is of the reply that it prefers, and how often that is the better
    one."""
    gap = np.array([g for a in answers for g in gaps(a.measured["reward_accuracy"])])
    sure, right = 1 / (1 + np.exp(-np.abs(gap))), (gap > 0) + 0.5 * (gap == 0)
    diagram = bins(sure, right)
    ece = sum(b["num_cases"] * abs(b["confidence"] - b["accuracy"]) for b in diagram) / len(gap)
    return {"confidence": float(sure.mean()), "accuracy": float(right.mean()), "ece": float(ece)}
