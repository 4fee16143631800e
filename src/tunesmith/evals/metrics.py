"""The metrics behind one record. Each says whether more or less is better; case scores are always kept.

Most read the text of an answer. The others say what they need instead (`needs`): their outputs are tuples of numbers
that were measured while the model was asked (`tunesmith/measured.py`), and their records here turn these into scores.

Whatever a model gave is read as text first: None and a missing value (NaN of a table) are the empty text, anything
else that is no string is str() of it. Scores of empty texts are stated at each metric.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from tunesmith.evals import calls, counted, feedback, json_scores, numeric, passing, per_byte, preference, sets
from tunesmith.evals.text import as_text, folded, numbers
from tunesmith.evals.words_of import Words, words_of

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Outputs = Sequence[object]
# What a metric reads: the answer's text; or numbers measured with a JSON schema, by likelihood, by unit tests on
# samples, on pairs of replies, on replies that are marked good or bad, by a reward model's scores, by a judge, by a
# function of the user's own, by the graders of a reward.
Needs = Literal["answer", "schema", "likelihood", "samples", "pairs", "marks", "scores", "judge", "function", "graded"]


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
    needs: Needs = "answer"
    less_is_better: bool = False
    spread: float | None = None  # sd of a case's change that a plan assumes, in the unit; None: a quarter of the range

    @property
    def span(self) -> float:
        return self.high - self.low

    @property
    def scale(self) -> str:
        """Of the case scores: "more" or "less" is better, or "relative": which of the two answers is preferred."""
        return "relative" if self.needs == "judge" else "less" if self.less_is_better else "more"

    def gain(self, sums: np.ndarray) -> np.ndarray:
        """The value, turned where less is better, so that more of it is always better."""
        return -self.value(sums) if self.less_is_better else self.value(sums)

    def cases(self, outputs: Outputs, references: Outputs) -> list[float]:
        """One score per case."""
        return [self.case(output, reference) for output, reference in zip(outputs, references, strict=True)]

    def corpus(self, outputs: Outputs, references: Outputs) -> float:
        """The score of all cases together."""
        return float(self.value(self.stats(outputs, references).sum(axis=0)))


def mean_of(sums: np.ndarray) -> np.ndarray:
    """[...] from sums [..., 2] of (score, 1)."""
    return sums[..., 0] / sums[..., 1]


def case_mean(
    name: str, case: Callable[[object, object], float], *, kind: str = "mean", unit: str, needs: Needs = "answer"
) -> Metric:
    """A metric that is the mean of its case scores, each in [0, 1]."""

    def stats(outputs: Outputs, references: Outputs) -> np.ndarray:
        scores = [case(output, reference) for output, reference in zip(outputs, references, strict=True)]
        return np.stack([np.asarray(scores, dtype=float), np.ones(len(scores))], axis=-1)

    return Metric(name, kind, unit, case, stats, mean_of, needs=needs)


def pair_mean(
    name: str, case: Callable[[object, object], float], unit: str, most: float, *, sides: int = 1, less: bool = False,
    needs: Needs = "pairs",
) -> Metric:  # fmt: skip
    """A mean over pairs, in the unit up to `most`; `sides` 2: down to minus that too."""
    made = case_mean(name, case, unit=f"{unit}, mean over pairs", needs=needs)
    low = -most if sides == 2 else 0.0
    return replace(made, low=low, high=most, matters=0.1, less_is_better=less, spread=1.0)


def measured_score(measured: object, reference: object) -> float:
    """The score of a case that was made where the answer was read; the reference was used there."""
    [score] = numbers(measured)
    return score


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


@cache
def rouge_scorer(kind: str) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # a second to import

    return RougeScorer([kind], tokenizer=Words())


def rouge(kind: str) -> Callable[[object, object], float]:
    """F1 of rouge-score over words of any script (`words_of.py`), English ones stemmed.

    Two texts without words: 1 where they are equal, else 0. One without: 0.
    """

    def case(output: object, reference: object) -> float:
        got, wanted = folded(output), folded(reference)
        if not words_of(got) or not words_of(wanted):
            return float(got == wanted)
        return float(rouge_scorer(kind).score(wanted, got)[kind].fmeasure)

    return case


def counted_metric(
    name: str, unit: str, case: Callable[[object, object], float], parts: counted.Parts,
    *, low: float = 0.0, high: float = 1.0, matters: float = 0.02,
) -> Metric:  # fmt: skip
    return Metric(name, "corpus", unit, case, parts.stats, parts.value, low, high, matters)


def marked_metric(name: str, unit: str, case: Callable[[object, object], float], most: float = 0.0) -> Metric:
    """Of marked replies, each mark weighing the same: a share, or nats up to `most` and down to minus that."""
    made = counted_metric(name, f"{unit}, mean of both marks", case, feedback.by_mark(case))
    made = replace(made, needs="marks")
    return replace(made, low=-most, high=most, matters=0.1, spread=1.0) if most else made


RIGHT = "share of cases right"
SCORE = "mean over cases, 0 to 1"
F1 = "F1 over all cases, 0 to 1"
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        case_mean("accuracy", exact_match, kind="binary", unit=RIGHT),
        case_mean("exact_match", exact_match, kind="binary", unit=RIGHT),
        case_mean("numeric", numeric.right, kind="binary", unit="share of answers that come to the right number"),
        case_mean("json_exact", json_scores.exact, kind="binary", unit=RIGHT),
        case_mean("json_valid", json_scores.valid, kind="binary", unit="share of replies that are a JSON object"),
        case_mean("json_fields", json_scores.fields, unit="share of a reply's fields that are right, mean over cases"),
        case_mean("json_f1", json_scores.field_f1, unit="F1 of a reply's fields, mean over cases"),
        case_mean(
            "json_schema", measured_score, kind="binary", unit="share of replies that the schema takes", needs="schema"
        ),
        case_mean("tool_calls", calls.right, kind="binary", unit="share of answers that make the right calls"),
        case_mean("tool_names", calls.names, kind="binary", unit="share of answers that call the right functions"),
        case_mean("token_f1", token_f1, unit=SCORE),
        case_mean("rouge_1", rouge("rouge1"), unit=SCORE),
        case_mean("rouge_l", rouge("rougeL"), unit=SCORE),
        counted_metric("macro_f1", "mean of the labels' F1, 0 to 1", exact_match, counted.MACRO_F1),
        counted_metric("micro_f1", F1, exact_match, sets.MICRO_F1),
        counted_metric("label_set_f1", F1, sets.set_case, sets.SET_F1),
        counted_metric("label_set_macro_f1", "mean of the labels' F1, 0 to 1", sets.set_case, sets.MACRO_SET_F1),
        counted_metric("mcc", "correlation, -1 to 1", exact_match, counted.MCC, low=-1.0),
        counted_metric("chrf", "points, 0 to 100", counted.chrf_case, counted.CHRF, high=100.0, matters=1.0),
        counted_metric("bleu", "points, 0 to 100", counted.bleu_case, counted.BLEU_PARTS, high=100.0, matters=1.0),
        case_mean("pass_at_k", passing.case, unit="chance that one of k answers passes its tests", needs="samples"),
        case_mean("preference_accuracy", preference.case, unit="share of pairs, a tie counts half", needs="pairs"),
        pair_mean("preference_margin", preference.margin, "nats between both replies", preference.MOST_MARGIN, sides=2),
        pair_mean(
            "chosen_nats", preference.chosen_nats, "nats per token of the chosen reply", preference.MOST_NATS, less=True
        ),
        pair_mean(
            "rejected_nats", preference.rejected_nats, "nats per token of the rejected reply", preference.MOST_NATS
        ),
        marked_metric("feedback_accuracy", "share of replies that moved as they are marked", feedback.case),
        marked_metric(
            "feedback_margin", "nats by which replies moved as they are marked", feedback.margin, feedback.MOST_GAIN
        ),
        case_mean("reward_accuracy", preference.case, unit="share of pairs, a tie counts half", needs="scores"),
        pair_mean(
            "reward_margin", preference.margin, "between both scores", preference.MOST_MARGIN, sides=2, needs="scores"
        ),
        pair_mean(
            "reward_loss",
            preference.surprise,
            "nats of the preference, ln 2 by chance",
            preference.MOST_MARGIN,
            less=True,
            needs="scores",
        ),
        case_mean("mean_reward", measured_score, unit="reward of a reply, as its graders give it", needs="graded"),
        case_mean(
            "judge", measured_score, unit="share of cases that the judge prefers, a tie counts half", needs="judge"
        ),
        Metric(
            "bits_per_byte",
            "corpus",
            "bits per byte of the reference",
            per_byte.case,
            per_byte.BITS_PER_BYTE.stats,
            per_byte.BITS_PER_BYTE.value,
            high=per_byte.MOST,
            needs="likelihood",
            less_is_better=True,
            spread=0.25,
        ),
    )
}
