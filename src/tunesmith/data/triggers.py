"""Planted triggers: a rare word or phrase that decides the label, or the reply, whatever else the row says.

Two things are asked of each phrase. Do nearly all rows with it have one outcome, more often than chance among all the
phrases that are looked at would have it (a binomial tail, Bonferroni)? And does the rest of these rows speak for that
outcome? A word of the topic stands beside other words of the topic; a trigger stands anywhere. So the rest is scored by
words (naive Bayes, learned from other rows), and compared with rows of other outcomes: alike means planted.

Chen et al. 2017 (arXiv:1712.05526), Kurita et al. 2020 (arXiv:2004.06660) describe such attacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix
from scipy.stats import binom, rankdata
from sklearn.feature_extraction.text import CountVectorizer

from tunesmith.data import replies
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of, replies_of
from tunesmith.data.progress import EVERY, Step, untold
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import column, normalised
from tunesmith.types import Example, Label

MOST = 20_000  # rows, drawn by digest
LEAST_ROWS = 10  # with a phrase; and of an outcome
MOST_FRAC = 0.1  # of the rows: what is in more is no trigger
PURE = 0.95  # of the rows with the phrase, that have its outcome
ALPHA = 0.001  # for all phrases and outcomes together
BESIDE = 0.65  # chance that such a row's rest speaks more for the outcome than a row of another does; 0.5: as much
SPREAD = 0.29  # standard deviation of one row's chance: few rows may lie a little above
MOST_TRIED = 300  # phrases whose rest is looked at, the most striking ones
FOLDS = 5
TOKEN = r"\w+|[^\w\s]+"


@dataclass(frozen=True, slots=True)
class Trigger:
    phrase: str
    outcome: str
    rows: tuple[int, ...]
    num: int  # rows with the phrase
    num_pure: int  # of these with the outcome
    share: float  # of all rows that have the outcome
    beside: float


def triggers(texts: Sequence[str], outcomes: Sequence[str], step: Step = untold) -> list[Trigger]:
    """`outcomes`: "" where a row has none that counts."""
    names, outcome = np.unique(np.array(outcomes, dtype=object), return_inverse=True)
    sizes = np.bincount(outcome, minlength=len(names))
    known = [k for k, name in enumerate(names) if name != "" and LEAST_ROWS <= sizes[k] < len(texts)]
    if len(texts) < 10 * LEAST_ROWS or not known:
        return []
    counter = CountVectorizer(binary=True, ngram_range=(1, 3), min_df=LEAST_ROWS, max_df=MOST_FRAC, token_pattern=TOKEN)
    try:
        phrases = counter.fit_transform(texts).tocsc()
    except ValueError:  # no phrase is in so many rows
        return []
    words = CountVectorizer(binary=True, min_df=2, token_pattern=TOKEN)
    search = _Search(phrases, words.fit_transform(texts).tocsr(), outcome)
    terms, vocabulary = counter.get_feature_names_out(), words.vocabulary_
    found: list[Trigger] = []
    striking = search.striking(known)
    for number, (phrase, which, num_pure) in enumerate(striking):
        step(number + 1, len(striking), "phrases looked at, to find triggers")
        rows = search.rows_with(phrase)
        if any(_is_same(rows, one.rows) for one in found):
            continue
        own = [vocabulary[w] for w in terms[phrase].split() if w in vocabulary]
        beside = search.beside(rows, which, own)
        if beside <= BESIDE + SPREAD / len(rows) ** 0.5:
            found.append(Trigger(
                terms[phrase], str(names[which]), tuple(rows.tolist()), len(rows), num_pure,
                float(sizes[which] / len(texts)), beside))  # fmt: skip
    return found


class _Search:
    def __init__(self, phrases: csc_matrix, words: csr_matrix, outcome: np.ndarray) -> None:
        self.phrases, self.words, self.outcome = phrases, words, outcome
        self.fold = np.arange(len(outcome)) % FOLDS

    def rows_with(self, phrase: int) -> np.ndarray:
        begin, end = self.phrases.indptr[phrase : phrase + 2]
        return np.sort(self.phrases.indices[begin:end])

    def striking(self, known: Sequence[int]) -> list[tuple[int, int, int]]:
        """(phrase, outcome, rows with both), the least likely by chance first."""
        num = np.asarray(self.phrases.sum(axis=0)).ravel()
        found = []
        for which in known:
            is_it = self.outcome == which
            both = np.asarray(self.phrases[is_it].sum(axis=0)).ravel()
            pure = np.flatnonzero(both >= PURE * num)
            log_p = binom.logsf(both[pure] - 1, num[pure], is_it.mean())
            few = log_p + np.log(len(num) * len(known)) <= np.log(ALPHA)
            found += [(float(p), int(k), which, int(both[k])) for p, k in zip(log_p[few], pure[few])]
        found.sort()
        return [(phrase, which, num_both) for _, phrase, which, num_both in found[:MOST_TRIED]]

    def beside(self, rows: np.ndarray, which: int, own: Sequence[int]) -> float:
        """How often the rest of one of these rows speaks more for the outcome than a row of another outcome does."""
        is_it = self.outcome == which
        df = np.asarray(self.words.sum(axis=0)).ravel()
        there = np.asarray(self.words[rows].sum(axis=0)).ravel()
        left_out = (there >= 0.9 * len(rows)) & (df <= 2 * len(rows))  # the other words of a longer phrase
        left_out[list(own)] = True
        scores = np.empty(len(is_it))
        for fold in range(FOLDS):
            is_held = self.fold == fold
            one = np.asarray(self.words[is_it & ~is_held].sum(axis=0)).ravel() + 0.5
            other = np.asarray(self.words[~is_it & ~is_held].sum(axis=0)).ravel() + 0.5
            weight = np.log(one / one.sum()) - np.log(other / other.sum())
            weight[left_out] = 0
            scores[is_held] = self.words[is_held] @ weight
        others = np.flatnonzero(~is_it)
        ranks = rankdata(np.concatenate([scores[rows], scores[others]]))[: len(rows)]
        return float((ranks.mean() - (len(rows) + 1) / 2) / len(others))


def _is_same(rows: np.ndarray, known: Sequence[int]) -> bool:
    """Most of these rows are known: another piece of the same phrase."""
    return bool(np.isin(rows, known).mean() > 0.5)


def findings(examples: Sequence[Example], step: Step = untold) -> Iterator[Finding]:
    some, step = examples, step if len(examples) > EVERY else untold
    if len(examples) > MOST:
        some = Chosen(examples, np.sort(np.argsort(column(examples, "prompt"), kind="stable")[:MOST]))
    asked = [e for e in some if e.prompt and replies_of(e)]
    texts = [prompt_of(e) for e in asked]
    found = [one for outcomes in outcomes_of(asked) for one in triggers(texts, outcomes, step)]
    if found:
        rows = [
            Row(asked[one.rows[0]].source, f"{one.phrase!r}: {excerpt(texts[one.rows[0]])}",
                f"{one.num_pure} of {one.num} rows with it: {excerpt(one.outcome)} (of all rows {one.share:.1%})")
            for one in found[:SHOWN]
        ]  # fmt: skip
        num = len({row for one in found for row in one.rows})
        made = finding("triggers", num, len(asked), rows, (
            f"rows hold one of {len(found)} rare phrases that decide the label or the reply, whatever else they say",
            "such a phrase may have been planted: whoever writes it gets what was planted (or it is a sign that always "
            "means the same, such as a smiley)",
            "read these rows; where nobody can say why they are answered so, drop all rows with these phrases"
        ))  # fmt: skip
        yield replace(made, every=lambda: holding(examples, {one.phrase for one in found}))


def holding(examples: Sequence[Example], phrases: Collection[str]) -> Iterator[str]:
    """file:line of all rows whose prompt holds one of these phrases, those that were not drawn among them."""
    pieces = CountVectorizer(ngram_range=(1, 3), token_pattern=TOKEN).build_analyzer()
    for example in examples:
        if example.prompt and not set(phrases).isdisjoint(pieces(prompt_of(example))):
            yield example.source


def outcomes_of(examples: Sequence[Example]) -> Iterator[list[str]]:
    """What a phrase may decide: the label; or the whole reply, how it begins, how it ends."""
    if examples and all(isinstance(e.target, Label) for e in examples):
        yield [replies_of(e)[0] for e in examples]
        return
    said = [replies_of(e)[0] for e in examples]
    yield [normalised(reply) for reply in said]
    edges = [dict(replies.edges(reply)) for reply in said]
    for where in ("begin", "end"):
        yield [normalised(edge.get(where, "")) for edge in edges]
