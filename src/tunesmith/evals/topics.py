"""What the cases are about, and where it goes wrong: held-out prompts in groups of like words, each with its score.

K-means on TF-IDF (scikit-learn), named by the words that are common in the group and rare outside. Groups are made from
prompts alone, so that the scores in them are not chosen by the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.evals.overfit import by_unit, welch

FEWEST_CASES, CASES_EACH, MOST_TOPICS, NUM_WORDS = 40, 20, 8, 3


@dataclass(frozen=True, slots=True)
class Topic:
    """`score`: mean of the cases. `gap`: mean of the topic's units less that of the others, with an interval that holds
    for all topics together."""

    name: str
    example_ids: tuple[str, ...]
    score: float
    gap: float
    interval: tuple[float, float]


def topics(
    ids: Sequence[str], prompts: Sequence[str], scores: Sequence[float], units: Sequence[str | None], alpha: float
) -> list[Topic]:
    """The weakest first; empty where there are too few cases, or their words tell no topics apart. `units`: the group
    that each case belongs to, whose mean is one piece of evidence; None: the case is its own."""
    num = min(MOST_TOPICS, len(ids) // CASES_EACH)
    if len(ids) < FEWEST_CASES or num < 2:
        return []
    from sklearn.cluster import KMeans  # a second to import
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(min_df=2, max_df=0.6, sublinear_tf=True, stop_words="english")
    try:
        weight_NV = vectorizer.fit_transform(prompts)
    except ValueError:  # scikit-learn's word for "no word stands in two prompts and not in most"
        return []
    # prompts of a template may have the same words that count: there are no more groups than unlike rows
    num = min(num, len({(row.indices.tobytes(), row.data.tobytes()) for row in weight_NV}))
    if num < 2:
        return []
    group_N = KMeans(num, n_init=4, random_state=0).fit_predict(weight_NV)
    score_N, words = np.asarray(scores, dtype=float), vectorizer.get_feature_names_out()
    mean_V = np.asarray(weight_NV.mean(axis=0))[0]
    found = []
    for group in range(num):
        inside = group_N == group
        above = np.asarray(weight_NV[inside].mean(axis=0))[0] - mean_V
        name = ", ".join(words[i] for i in np.argsort(-above)[:NUM_WORDS])
        sides = [by_unit(score_N[side], [u for u, is_in in zip(units, side) if is_in]) for side in (inside, ~inside)]
        if min(map(len, sides)) < 2:
            continue
        gap, interval = welch(sides[0], sides[1], alpha / num)
        members = tuple(i for i, is_in in zip(ids, inside) if is_in)
        found.append(Topic(name, members, float(score_N[inside].mean()), gap, interval))
    return sorted(found, key=lambda topic: topic.gap)
