"""Probabilities that mean what they say, and which answers are not sure enough: numbers in, numbers out.

One temperature divides the log-probabilities of the labels (Guo et al. 2017, "On Calibration of Modern Neural
Networks", section 4.2). It moves no answer, only how sure it looks. It is fitted on dev; the held-out cases only
measure it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize_scalar

MIN_CASES = 30  # dev cases with a label; with fewer, a temperature is mostly noise and nothing is called calibrated
MIN_SURE = 20  # dev cases at or above a threshold; with fewer, "right so often" would be said of too few
BINS = 15  # of equal width, as in Guo et al.
TEMPERATURES = (0.05, 50.0)
DIGITS = 4  # a probability is rounded before it is compared or shown, so that a file holds all that decided

Sure = Literal["chosen", "none reaches the target", "too few dev cases"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """calibration.json, as `predict` needs it. `threshold`: answers with a lower probability are unsure."""

    temperature: float
    num_dev: int
    target: float  # share of the answers that are not unsure which was right on dev
    threshold: float | None
    sure: Sure

    @property
    def is_usable(self) -> bool:
        """Whether there were enough dev cases to call a probability calibrated."""
        return self.num_dev >= MIN_CASES

    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "calibrated": self.is_usable}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Calibration:
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    def is_unsure(self, probability: float) -> bool | None:
        """None where there were too few dev cases to say."""
        if self.sure == "too few dev cases":
            return None
        return self.threshold is None or probability < self.threshold


def probabilities(logp: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[n, C] shares that sum to 1, from [n, C] log-probabilities of the labels."""
    scaled = logp / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def nll(logp: np.ndarray, gold: np.ndarray, temperature: float = 1.0) -> float:
    """Nats per case of the right label (index `gold`), among the labels."""
    scaled = logp / temperature
    top = scaled.max(axis=1, keepdims=True)
    total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
    return float((total - scaled[np.arange(len(gold)), gold]).mean())


def fit_temperature(logp: np.ndarray, gold: np.ndarray) -> float:
    """The temperature with the least NLL on these cases, with a prior that counts like one weak case.

    Without the prior (normal, log T around 0 with spread 1) a dev set with every answer right would say T = 0: no doubt
    at all. With some hundred cases it moves nothing that can be seen.
    """

    def cost(log_temperature: float) -> float:
        return nll(logp, gold, float(np.exp(log_temperature))) * len(gold) + 0.5 * log_temperature**2

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))


def choose_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> tuple[float | None, Sure]:
    """The lowest probability at or above which `target` of the dev answers are right, and which MIN_SURE of them have.

    It is chosen where it looks best, so on new cases a little less than `target` may be right; the held-out cases say
    how much (Geifman and El-Yaniv 2017 call what is wrong there the selective risk).
    """
    if len(right) < MIN_CASES:
        return None, "too few dev cases"
    reached = [
        float(t)
        for t in np.unique(confidence)
        if (confidence >= t).sum() >= MIN_SURE and right[confidence >= t].mean() >= target
    ]
    return (min(reached), "chosen") if reached else (None, "none reaches the target")


def top(logp: np.ndarray, temperature: float) -> np.ndarray:
    """[n] probability of the likeliest label, rounded as it is shown."""
    return np.round(probabilities(logp, temperature).max(axis=1), DIGITS)


def fit(logp: np.ndarray, gold: np.ndarray, target: float) -> Calibration:
    """From dev: [n, C] log-probabilities and the index of the right label of each case."""
    unfitted = Calibration(1.0, len(gold), target, None, "too few dev cases")
    if not unfitted.is_usable:
        return unfitted
    temperature = fit_temperature(logp, gold)
    threshold, sure = choose_threshold(top(logp, temperature), logp.argmax(axis=1) == gold, target)
    return replace(unfitted, temperature=temperature, threshold=threshold, sure=sure)


def bins(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """The reliability diagram: of each bin that holds cases, how many, how sure they were, how many of them right."""
    at = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        {
            "num_cases": int((at == b).sum()),
            "confidence": float(confidence[at == b].mean()),
            "accuracy": float(right[at == b].mean()),
        }
        for b in np.unique(at)
    ]


def quality(logp: np.ndarray, gold: np.ndarray, temperature: float) -> dict[str, Any]:
    """How far the probabilities are from the truth on these cases; less is better.

    `ece`: expected calibration error of the likeliest label; `brier`: squared distance from the truth, summed over the
    labels (0 to 2); `nll`: nats.
    """
    shares = probabilities(logp, temperature)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == gold
    diagram = bins(confidence, right)
    gap = sum(b["num_cases"] * abs(b["confidence"] - b["accuracy"]) for b in diagram) / len(gold)
    truth = np.eye(shares.shape[1])[gold]
    brier = float(((shares - truth) ** 2).sum(axis=1).mean())
    return {"ece": float(gap), "brier": brier, "nll": nll(logp, gold, temperature), "bins": diagram}


def abstention(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """What is right of the answers given, when the least sure are not given: a point for every tenth of the cases.

    El-Yaniv and Wiener 2010 call it the risk-coverage curve. Answers that are as sure as one another go together, so a
    point may stand for more than its tenth, and two tenths for one point.
    """
    order = np.sort(confidence)[::-1]
    least = {float(order[int(np.ceil(tenth * len(order) / 10)) - 1]) for tenth in range(1, 11)}
    return [
        {
            "least_probability": p,
            "answered_frac": float((confidence >= p).mean()),
            "accuracy": float(right[confidence >= p].mean()),
        }
        for p in sorted(least, reverse=True)
    ]


def held_out(logp: np.ndarray, gold: np.ndarray, found: Calibration) -> dict[str, Any]:
    """What the calibration is worth on cases that it has not seen: before, after, and the answers that were sure."""
    facts: dict[str, Any] = {
        "num_cases": len(gold),
        "before": quality(logp, gold, 1.0),
        "after": quality(logp, gold, found.temperature),
        "abstention": abstention(top(logp, found.temperature), logp.argmax(axis=1) == gold),
    }
    unsure = [found.is_unsure(p) for p in top(logp, found.temperature)]
    if None not in unsure:
        sure = ~np.array(unsure, dtype=bool)
        right = logp.argmax(axis=1) == gold
        facts["unsure_frac"] = float(1 - sure.mean())
        facts["accuracy"] = float(right.mean())
        facts["accuracy_when_sure"] = float(right[sure].mean()) if sure.any() else None
    return facts
