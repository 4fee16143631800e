"""The metrics behind one record. Larger is better for all of them; case scores are always kept.

Whatever a model gave is read as text first: None and a missing value (NaN of a table) are the empty text, anything
else that is no string is str() of it. Scores of empty texts are stated at each metric.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from tunesmith.evals import counted, json_scores, numeric
from tunesmith.evals.text import as_text, folded

Outputs = Sequence[object]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric is the value of summed per-case statistics; a mean has the statistics (score, 1)."""

    name: str
    kind: str  # "binary" | "mean" | "corpus": what its comparison is made with
    unit: str
    case: Callable[[object, object], float]  # of (output, reference); display only where kind is "corpus"
    stats: Callable[[Outputs, Outputs], np.ndarray]  # of (outputs, references): [n, K]
    value: Callable[[np.ndarray], np.ndarray]  # [..., K] sums -> [...]
    low: float = 0.0
    high: float = 1.0
    matters: float = 0.02  # default of smallest_that_matters, in the unit: two points of a hundred

    @property
    def span(self) -> float:
        return self.high - self.low

    def cases(self, outputs: Outputs, references: Outputs) -> list[float]:
        """One score per case."""
        return [self.case(output, reference) for output, reference in zip(outputs, references, strict=True)]

    def corpus(self, outputs: Outputs, references: Outputs) -> float:
        """The score of all cases together."""
        return float(self.value(self.stats(outputs, references).sum(axis=0)))


def mean_of(sums: np.ndarray) -> np.ndarray:
    """[...] from sums [..., 2] of (score, 1)."""
    return sums[..., 0] / sums[..., 1]


def case_mean(name: str, case: Callable[[object, object], float], *, kind: str = "mean", unit: str) -> Metric:
    """A metric that is the mean of its case scores, each in [0, 1]."""

    def stats(outputs: Outputs, references: Outputs) -> np.ndarray:
        scores = [case(output, reference) for output, reference in zip(outputs, references, strict=True)]
        return np.stack([np.asarray(scores, dtype=float), np.ones(len(scores))], axis=-1)

    return Metric(name, kind, unit, case, stats, mean_of)


def exact_match(output: object, reference: object) -> float:
    """1 where the texts are equal, stripped and with runs of white space as one space; two empty texts are equal."""
    return float(folded(output) == folded(reference))


ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: object) -> list[str]:
    """Lower case, without ASCII punctuation and English articles (Rajpurkar et al. 2016)."""
    return ARTICLES.sub(" ", as_text(text).lower().translate(PUNCTUATION)).split()


def token_f1(output: object, reference: object) -> float:
    """F1 of the words in common, counted as often as they occur in both. Two texts without words: 1; one without: 0."""
    got, wanted = squad_words(output), squad_words(reference)
    if not got or not wanted:
        return float(got == wanted)
    common = sum((Counter(got) & Counter(wanted)).values())
    return 2 * common / (len(got) + len(wanted))


def rouge(kind: str) -> Callable[[object, object], float]:
    """F1 of rouge-score with its stemmer. Its words are runs of a-z and 0-9: a text in another script has none.

    Two empty texts: 1. One text without words: 0.
    """
    scorer = RougeScorer([kind], use_stemmer=True)

    def case(output: object, reference: object) -> float:
        got, wanted = folded(output), folded(reference)
        if not got and not wanted:
            return 1.0
        return float(scorer.score(wanted, got)[kind].fmeasure)

    return case


def counted_metric(
    name: str, unit: str, case: Callable[[object, object], float], parts: counted.Parts, **bounds: float
) -> Metric:
    return Metric(name, "corpus", unit, case, parts.stats, parts.value, **bounds)


RIGHT = "share of cases right"
SCORE = "mean over cases, 0 to 1"
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        case_mean("accuracy", exact_match, kind="binary", unit=RIGHT),
        case_mean("exact_match", exact_match, kind="binary", unit=RIGHT),
        case_mean("numeric", numeric.right, kind="binary", unit="share of answers that come to the right number"),
        case_mean("json_exact", json_scores.exact, kind="binary", unit=RIGHT),
        case_mean("json_valid", json_scores.valid, kind="binary", unit="share of replies that are a JSON object"),
        case_mean("json_fields", json_scores.fields, unit="share of a reply's fields that are right, mean over cases"),
        case_mean("token_f1", token_f1, unit=SCORE),
        case_mean("rouge_1", rouge("rouge1"), unit=SCORE),
        case_mean("rouge_l", rouge("rougeL"), unit=SCORE),
        counted_metric("macro_f1", "mean of the labels' F1, 0 to 1", exact_match, counted.MACRO_F1),
        counted_metric("mcc", "correlation, -1 to 1", exact_match, counted.MCC, low=-1.0),
        counted_metric("chrf", "points, 0 to 100", counted.chrf_case, counted.CHRF, high=100.0, matters=1.0),
        counted_metric("bleu", "points, 0 to 100", counted.bleu_case, counted.BLEU_PARTS, high=100.0, matters=1.0),
    )
}
