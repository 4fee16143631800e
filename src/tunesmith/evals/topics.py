"""What the cases are about, and where it goes wrong: held-out prompts in groups of like words, each with its score.

K-means on TF-IDF (scikit-learn), named by the words that are common in the group and rare outside. Groups are made from
prompts alone, so that the scores in them are not chosen by the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer

from tunesmith.evals.overfit import welch

FEWEST_CASES, CASES_EACH, MOST_TOPICS, NUM_WORDS = 40, 20, 8, 3


@dataclass(frozen=True, slots=True)
class Topic:
    """`gap`: mean score in the topic less that outside, with an interval that holds for all topics together."""

    name: str
    example_ids: tuple[str, ...]
    score: float
    gap: float
    interval: tuple[float, float]


def topics(ids: Sequence[str], prompts: Sequence[str], scores: Sequence[float], alpha: float) -> list[Topic]:
    """The weakest first; empty where there are too few cases, or their words tell no groups apart."""
    num = min(MOST_TOPICS, len(ids) // CASES_EACH)
    if len(ids) < FEWEST_CASES or num < 2:
        return []
    vectorizer = TfidfVectorizer(min_df=2, max_df=0.6, sublinear_tf=True)
    try:
        weight_NV = vectorizer.fit_transform(prompts)
    except ValueError:  # scikit-learn's word for "no word stands in two prompts and not in most"
        return []
    group_N = KMeans(num, n_init=4, random_state=0).fit_predict(weight_NV)
    score_N, words = np.asarray(scores, dtype=float), vectorizer.get_feature_names_out()
    mean_V = np.asarray(weight_NV.mean(axis=0))[0]
    found = []
    for group in range(num):
        inside = group_N == group
        if inside.sum() < 2 or (~inside).sum() < 2:
            continue
        above = np.asarray(weight_NV[inside].mean(axis=0))[0] - mean_V
        name = ", ".join(words[i] for i in np.argsort(-above)[:NUM_WORDS])
        gap, interval = welch(score_N[inside], score_N[~inside], alpha / num)
        members = tuple(i for i, is_in in zip(ids, inside) if is_in)
        found.append(Topic(name, members, float(score_N[inside].mean()), gap, interval))
    return sorted(found, key=lambda topic: topic.gap)
