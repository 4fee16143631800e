"""Which held-out cases fail, by kind of error: how many, and what tuning cured or caused.

What no kind names is put into groups by the words that answers lack or bring along (k-means on TF-IDF).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunesmith.evals.compare import Cases, Rules, measure, score_of, units_of
from tunesmith.evals.kinds import Said, kinds
from tunesmith.evals.metrics import Metric, case_mean
from tunesmith.evals.words_of import words_of

MOST_NAMED = 16  # kinds that are counted, the commonest first
NUM_SHOWN = 3  # cases of each kind that are named
FEWEST_REST, REST_EACH, MOST_RESTS, NUM_WORDS = 12, 6, 4, 2
HAS = case_mean("has this kind", lambda given, wanted: float(bool(given)), kind="binary", unit="share of cases")


@dataclass(frozen=True, slots=True)
class Group:
    """A kind of error. Intervals hold for all kinds together. `share`: of the tuned model's failing cases; `change`:
    share of all cases that have it, tuned less base, so that above 0 tuning made it worse."""

    name: str
    sentence: str
    example_ids: tuple[str, ...]  # of the tuned model's answers; those that the base had not first
    base_ids: tuple[str, ...]
    share: float
    interval: tuple[float, float]
    num_cured: int
    num_caused: int
    change: float
    change_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Side:
    """One model's answers to all cases, and whether each fails."""

    said: Sequence[Said]
    fails: Sequence[bool]


def line(metric: Metric, *, is_json: bool) -> float:
    """The score under which a case fails: the full one where answers are right or wrong, or are JSON; else half."""
    is_whole = metric.kind == "binary" or is_json
    return metric.high if is_whole else (metric.low + metric.high) / 2


def fails(scores: Sequence[float | None], under: float) -> list[bool]:
    """A case that was not measured fails nobody."""
    return [score is not None and score < under for score in scores]


def by_kind(
    ids: Sequence[str], units: Sequence[str | None], sides: tuple[Side, Side], table: str, labels: Sequence[str],
    alpha: float,
) -> dict[str, Any]:  # fmt: skip
    """`sides`: base and tuned. Keys: num_cases, num_base and num_tuned that fail, num_unnamed of the tuned ones, kinds
    (a case may stand in several), num_more kinds that are too rare to be shown."""
    found = [
        [kinds(said, table, labels) if bad else {} for said, bad in zip(side.said, side.fails, strict=True)]
        for side in sides
    ]
    add_rest(found, sides)
    sentences = {name: words for rows in found for row in rows for name, words in row.items()}
    counts = [Counter(name for row in rows for name in row) for rows in found]
    names = sorted(sentences, key=lambda n: (-counts[1][n], -counts[0][n], n))
    corrected = Rules(alpha=alpha / max(1, min(len(names), MOST_NAMED)))
    there = [k for k, bad in enumerate(sides[1].fails) if bad]
    shown = []
    for name in names[:MOST_NAMED]:
        base, tuned = ([name in row for row in rows] for rows in found)
        shown.append(group(name, sentences[name], ids, units, (base, tuned), there, corrected))
    return {
        "num_cases": len(ids),
        "num_base": sum(sides[0].fails),
        "num_tuned": len(there),
        "num_unnamed": sum(not found[1][k] for k in there),
        "num_more": len(names) - len(shown),
        "kinds": [asdict(g) for g in shown],
    }


def group(
    name: str, sentence: str, ids: Sequence[str], units: Sequence[str | None],
    has: tuple[Sequence[bool], Sequence[bool]], there: Sequence[int], rules: Rules,
) -> Group:  # fmt: skip
    """`there`: places of the cases that the tuned model fails."""
    base, tuned = has
    is_grouped = any(units)
    whole = measure(Cases([True] * len(ids), base, tuned, list(units) if is_grouped else None), HAS, rules)
    share, interval = 0.0, (0.0, 1.0)
    if there:
        own = units_of([units[k] for k in there]) if is_grouped else None
        share, interval = score_of(HAS.stats([tuned[k] for k in there], there), HAS, own, rules.alpha)
    caused = [i for i, b, t in zip(ids, base, tuned) if t and not b]
    stayed = [i for i, b, t in zip(ids, base, tuned) if t and b]
    cured = [i for i, b, t in zip(ids, base, tuned) if b and not t]
    return Group(
        name, sentence, (*caused, *stayed), (*cured, *stayed), share, interval, len(cured), len(caused),
        whole.effect, whole.interval,
    )  # fmt: skip


def add_rest(found: list[list[dict[str, str]]], sides: tuple[Side, Side]) -> None:
    """Names what has no kind yet by the words in which answers differ from their references, where there is enough."""
    places = [(s, k) for s, side in enumerate(sides) for k, bad in enumerate(side.fails) if bad and not found[s][k]]
    different = {tuple(difference(sides[s].said[k])) for s, k in places}
    num = min(MOST_RESTS, len(places) // REST_EACH, len(different))
    if len(places) < FEWEST_REST or num < 2:
        return
    from sklearn.cluster import KMeans  # a second to import
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=difference, min_df=2, sublinear_tf=True)
    try:
        weight_NV = vectorizer.fit_transform([sides[s].said[k] for s, k in places])
    except ValueError:  # scikit-learn's word for "no word is in two of them"
        return
    group_N = KMeans(num, n_init=4, random_state=0).fit_predict(weight_NV)
    terms, mean_V = vectorizer.get_feature_names_out(), np.asarray(weight_NV.mean(axis=0))[0]
    for number in range(num):
        inside = np.flatnonzero(group_N == number)
        if not len(inside):
            continue
        above = np.asarray(weight_NV[inside].mean(axis=0))[0] - mean_V
        top = [int(i) for i in np.argsort(-above)[:NUM_WORDS] if above[i] > 0]
        has = np.asarray(weight_NV[inside][:, top].sum(axis=1))[:, 0] > 0
        name = ", ".join(terms[i] for i in top)
        for at, is_one in zip(inside, has):
            s, k = places[at]
            if name and is_one:
                found[s][k] = {name: "no other kind; answer and reference differ in these words"}


def difference(said: Said) -> list[str]:
    """ "lacks X" for words of the reference that the answer has not, "brings X" the other way round."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    got, wanted = (set(words_of(t)) - ENGLISH_STOP_WORDS for t in (said.answer, said.reference))
    return [f"lacks {w}" for w in sorted(wanted - got)] + [f"brings {w}" for w in sorted(got - wanted)]
