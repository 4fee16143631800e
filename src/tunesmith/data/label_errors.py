"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

A small model (TF-IDF, logistic regression) predicts each row from the others: FOLDS parts, equal prompts in one. A row
is a candidate where another label is predicted at least as surely as it is on average in rows of that label, and ten
times as surely as the given one. The surest come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of
from tunesmith.data.progress import EVERY, Step, untold
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import column, label_counts
from tunesmith.types import Example, Label

MOST_ROWS = 20_000  # that are looked at; of more a part is drawn by the hash of their text
LEAST_ROWS, LEAST_OF_LABEL = 200, 10
FOLDS = 5
WORDS, LETTERS = 30_000, 30_000  # features
DOUBT = 0.1  # probability of the given label, beside that of the predicted one, up to which it is doubted
LEAST_RIGHT = 0.6  # of the predictions that agree with the labels: a worse model accuses nobody


@dataclass(frozen=True, slots=True)
class Suspects:
    """Rows in the order of doubt, with what would fit better."""

    at: np.ndarray  # [n] rows
    fits: np.ndarray  # [n] numbers of the labels that would fit
    doubt: np.ndarray  # [n] probability of the predicted label less that of the given one
    right_frac: float  # of all rows, whose label is predicted


def suspects(texts: Sequence[str], labels: np.ndarray, part: np.ndarray, step: Step = untold) -> Suspects:
    """`labels` [n] from 0 to the number of labels, all of them there; `part` [n]: what must stay in one fold."""
    chances = cross_predicted(texts, labels, part, step)
    return judged(chances, labels)


def cross_predicted(texts: Sequence[str], labels: np.ndarray, part: np.ndarray, step: Step = untold) -> np.ndarray:
    """[n, C] probabilities of the labels, each row by a model that has not seen it."""
    both = (
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=WORDS, token_pattern=r"(?u)\b\w+\b"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, max_features=LETTERS),
    )
    features = hstack([vectorizer.fit_transform(texts) for vectorizer in both]).tocsr()
    chances = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in range(FOLDS):
        is_out = part % FOLDS == fold
        if is_out.any() and len(np.unique(labels[~is_out])) > 1:
            model = LogisticRegression(C=10.0, max_iter=300, tol=1e-2).fit(features[~is_out], labels[~is_out])
            chances[np.ix_(is_out, model.classes_)] = model.predict_proba(features[is_out])
        step(fold + 1, FOLDS, "fifths of the rows predicted, to find wrong labels")
    return chances


def judged(chances: np.ndarray, labels: np.ndarray) -> Suspects:
    """The rule by itself. The mean probability of a label over its rows is the bar for calling a row one of it."""
    rows = np.arange(len(labels))
    own = chances[rows, labels]
    bars = np.array([own[labels == c].mean() if (labels == c).any() else 1.0 for c in range(chances.shape[1])])
    others = np.where(chances >= bars, chances, -1.0)
    others[rows, labels] = -1.0
    fits = others.argmax(axis=1)
    best = others[rows, fits]
    doubt = best - own
    is_bad = (best > 0) & (own <= DOUBT * best)
    at = rows[is_bad][np.argsort(-doubt[is_bad], kind="stable")]
    right = float((chances.argmax(axis=1) == labels).mean())
    return Suspects(at, fits[at], doubt[at], right)


def findings(train: Sequence[Example], step: Step = untold) -> Iterator[Finding]:
    """Of labelled training rows; none where they are few, or the small model knows too little to accuse."""
    counts = label_counts(train)
    names = sorted(name for name, num in counts.items() if num >= LEAST_OF_LABEL)
    if len(names) < 2:
        return
    number = {name: n for n, name in enumerate(names)}
    masked = column(train, "masked")
    part = np.ascontiguousarray(masked).view(np.uint8).reshape(len(masked), -1)[:, :4].copy().view("<u4")[:, 0]
    drawn = np.sort(np.argsort(part, kind="stable")[:MOST_ROWS])
    rows = [(int(at), e) for at, e in zip(drawn, Chosen(train, drawn)) if isinstance(e.target, Label)]
    rows = [(at, e) for at, e in rows if e.target.text in number]  # type: ignore[union-attr]
    if len(rows) < LEAST_ROWS:
        return
    labels = np.array([number[e.target.text] for _, e in rows])  # type: ignore[union-attr]
    found = suspects([prompt_of(e) for _, e in rows], labels, part[[at for at, _ in rows]] // 2**3,
                     step if len(rows) > EVERY else untold)  # fmt: skip
    if found.right_frac < LEAST_RIGHT or not len(found.at):
        return
    shown = [
        Row(
            rows[at][1].source,
            excerpt(prompt_of(rows[at][1])),
            f"{names[labels[at]]}, rather {names[fit]} ({doubt:.2f})",
        )
        for at, fit, doubt in zip(found.at[:SHOWN].tolist(), found.fits.tolist(), found.doubt.tolist())
    ]
    made = finding("label_errors", len(found.at), len(rows), shown, (
        "training rows likely have a wrong label (predicted from the other rows"
        + (f"; drawn from {len(train):,})" if len(train) > len(rows) else ")"),
        "what is learned from them is wrong, and in the test they hide what is right",
        "look at the rows, the surest first, and correct those that are wrong, or drop all of them"))  # fmt: skip
    where = np.array([rows[at][0] for at in found.at.tolist()], np.uint32)
    yield replace(made, every=lambda: (example.source for example in Chosen(train, where)))
