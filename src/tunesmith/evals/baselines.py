"""What needs no tuning at all: the majority answer, TF-IDF with logistic regression, the nearest training example, and
the input handed back unchanged.

Each sees the training split only and answers every held-out case, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer  # at the start: plans count what the process has
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from tunesmith.data.columns import NO_LABEL
from tunesmith.errors import DataError
from tunesmith.evals.sets import label_set

MAX_FEATURES = 50_000  # of each kind; keeps the fit in seconds on a laptop
UNCHANGED = "input unchanged"
CHUNK = 512  # held-out cases compared with the training split at a time


def check(inputs: Sequence[str], answers: Sequence[str]) -> None:
    if not inputs or len(inputs) != len(answers):
        raise DataError(
            f"{len(inputs)} training inputs and {len(answers)} answers; a baseline needs one or more, as many of both."
        )


def majority(answers: Sequence[str], num_cases: int) -> list[str]:
    """The commonest training answer, for every case; of equals the first in the alphabet."""
    if not answers:
        raise DataError("there is no training answer to take the commonest of; give a training split.")
    counts = Counter(answers)
    return [min(counts, key=lambda answer: (-counts[answer], answer))] * num_cases


def features() -> FeatureUnion:
    """TF-IDF of words and word pairs beside character n-grams within words; any script."""
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES, token_pattern=r"(?u)\b\w+\b"
    )
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=MAX_FEATURES)
    return FeatureUnion([("words", words), ("letters", letters)])


def rows_of(inputs: Sequence[str], held_out: Sequence[str]) -> tuple[csr_matrix, csr_matrix] | None:
    """TF-IDF rows of both, fitted on `inputs` alone. None where these hold no word at all."""
    if not any(any(c.isalnum() for c in text) for text in inputs):
        return None
    fitted = features()
    return csr_matrix(fitted.fit_transform(list(inputs))), csr_matrix(fitted.transform(list(held_out)))


def tfidf_logistic(inputs: Sequence[str], labels: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """Labels by logistic regression on TF-IDF; with one class or no words to go by, the majority answer."""
    check(inputs, labels)
    rows = rows_of(inputs, held_out) if len(set(labels)) > 1 and held_out else None
    if rows is None:
        return majority(labels, len(held_out))
    fitted = LogisticRegression(C=10.0, max_iter=1000).fit(rows[0], np.array(labels, dtype=object))
    return [str(label) for label in fitted.predict(rows[1])]


def tfidf_each(inputs: Sequence[str], answers: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """All labels that fit, each by a logistic regression of its own on TF-IDF; with no words to go by, the majority
    answer."""
    check(inputs, answers)
    rows = rows_of(inputs, held_out) if held_out else None
    if rows is None:
        return majority(answers, len(held_out))
    names = [label_set(answer) - {NO_LABEL} for answer in answers]
    found: list[list[str]] = [[] for _ in held_out]
    for label in sorted(frozenset().union(*names)):
        fits = np.array([label in some for some in names])
        logistic = LogisticRegression(C=10.0, max_iter=1000)
        is_said = np.ones(len(held_out)) if fits.all() else logistic.fit(rows[0], fits).predict(rows[1])
        for k in np.flatnonzero(is_said):
            found[k].append(label)
    return [", ".join(said) or NO_LABEL for said in found]


def nearest(inputs: Sequence[str], replies: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """The reply of the training example whose input is nearest by the cosine of TF-IDF; of equals the first."""
    check(inputs, replies)
    rows = rows_of(inputs, held_out) if held_out else None
    if rows is None:
        return majority(replies, len(held_out))
    train, asked = rows
    found: list[str] = []
    for k in range(0, len(held_out), CHUNK):
        # rows have equal length (each half is normalised), so the dot product orders as the cosine does
        likeness = np.asarray((asked[k : k + CHUNK] @ train.T).todense())
        found += [replies[int(best)] for best in likeness.argmax(axis=1)]
    return found


def baselines(
    inputs: Sequence[str], answers: Sequence[str], held_out: Sequence[str], *, is_labels: bool,
    several: bool = False,
) -> dict[str, list[str]]:  # fmt: skip
    """Outputs for the held-out cases, by the names that a verdict shows. `several`: an answer is
    all labels that fit."""
    check(inputs, answers)
    outputs = {"majority answer": majority(answers, len(held_out))}
    if several:
        outputs["TF-IDF + logistic regression"] = tfidf_each(inputs, answers, held_out)
    elif is_labels:
        outputs["TF-IDF + logistic regression"] = tfidf_logistic(inputs, answers, held_out)
    else:
        outputs["nearest training example"] = nearest(inputs, answers, held_out)
        # between near languages a copy scores high: a model that learned to copy must not pass for a translator
        outputs[UNCHANGED] = list(held_out)
    return outputs
