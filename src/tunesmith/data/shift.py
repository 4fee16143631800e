"""Whether the test, and what will really be asked, is like training; and whether a label goes with a group.

A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): a small model learns from half of the rows to
tell test prompts from training ones; of the other half it is right in every second case where both are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tunesmith.data.finding import Finding, Row, excerpt, finding, prompt_of
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.split import Split
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import column, label_counts
from tunesmith.types import Example, Label

MOST, LEAST = 2000, 50  # rows of each side
SHIFTED = 0.55  # right share, that the interval's lower end must pass: less hardly matters
LEVEL = 0.95  # of the interval
TELLING = 8  # words of each side that are shown
SUREST = 5  # rows that are shown
WORDS = {
    "test": (
        "shift", "the test is of other cases than those that are learned: its score says how well that carries over",
        "where that is not wanted, draw the test from all rows alike",
    ),
    "inputs": (
        "target_shift", "what will be asked is not what is learned, and the score on the test says little of it",
        "label some of them, those that lie apart, and add them to training",
    ),
}  # fmt: skip
LINKED, ALPHA = 0.1, 0.001  # Cramér's V and the p-value of a link worth a look
MOST_GROUPS = 1000  # values of a column: more are names of rows rather than groups


@dataclass(frozen=True, slots=True)
class Told:
    """How well two sets of texts are told apart."""

    right_frac: float
    low: float
    high: float
    first_words: tuple[str, ...]
    second_words: tuple[str, ...]
    surest: tuple[int, ...]  # of the second, that a model which has not seen them places there, the surest first


def told_apart(first: Sequence[str], second: Sequence[str], seed: int = 0) -> Told:
    """As many of each, and half of each learned from: the cases are independent, and the interval is Wilson's."""
    num = min(len(first), len(second))
    texts, side = [*first[:num], *second[:num]], np.repeat([0, 1], num)
    features = TfidfVectorizer(sublinear_tf=True, max_features=20_000, token_pattern=r"(?u)\b\w+\b").fit(texts)
    draw, rows = np.random.default_rng(seed), features.transform(texts)
    is_learned = np.concatenate([draw.permutation(num) % 2 == 0, draw.permutation(num) % 2 == 0])
    model = LogisticRegression(max_iter=300, tol=1e-2).fit(rows[is_learned], side[is_learned])
    held_out = np.flatnonzero(~is_learned)
    speaks = model.decision_function(rows[held_out])
    right = int(((speaks > 0) == side[held_out]).sum())
    surest = [int(at) - num for at in held_out[np.argsort(-speaks, kind="stable")] if side[at]][:SUREST]
    low, high = wilson(right, len(held_out))
    weights = LogisticRegression(max_iter=300, tol=1e-2).fit(rows, side).coef_[0]
    names, order = features.get_feature_names_out(), np.argsort(weights)
    words = tuple(names[order[:TELLING]]), tuple(names[order[::-1][:TELLING]])
    return Told(right / len(held_out), low, high, *words, tuple(surest))


def wilson(right: int, num: int) -> tuple[float, float]:
    """Interval of a share."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, spread = (right + z * z / 2) / (num + z * z), z * (right * (num - right) / num + z * z / 4) ** 0.5
    return middle - spread / (num + z * z), middle + spread / (num + z * z)


def compared(split: Split, inputs: Sequence[str]) -> dict[str, tuple[Told, int]]:
    """Training prompts beside those of the test, and beside `inputs`: how well they are told apart, and of how many
    each. What has fewer than LEAST is not there."""
    test = min(len(split.test), MOST)
    others = {"test": [prompt_of(e) for e in drawn(split.test, test)] if test else [], "inputs": list(inputs[:MOST])}
    found = {}
    for name, texts in others.items():
        num = min(len(split.train), len(texts))
        if num >= LEAST:
            train = [prompt_of(e) for e in drawn(split.train, num)]
            found[name] = told_apart(train, texts[:num]), num
    return found


def facts(found: Mapping[str, tuple[Told, int]]) -> dict[str, dict[str, float]]:
    """For audit.json."""
    return {
        name: {"right_frac": told.right_frac, "low": told.low, "high": told.high, "rows_each": num}
        for name, (told, num) in found.items()
    }


def findings(found: Mapping[str, tuple[Told, int]], split: Split) -> Iterator[Finding]:
    """Of what was `compared`, where the two are told apart."""
    for name, (told, num) in found.items():
        if told.low <= SHIFTED:
            continue
        rows = [
            Row("", ", ".join(told.first_words), "words of training"),
            Row("", ", ".join(told.second_words), f"words of {name}"),
        ]
        for e in Chosen(drawn(split.test, num), np.array(told.surest)) if name == "test" else ():
            rows.append(Row(e.source, excerpt(prompt_of(e)), "unlike training"))
        kind, why, mend = WORDS[name]
        what = (
            f"training rows and {name} are told apart by a small model that has not seen them ({told.right_frac:.0%}, "
            f"interval {told.low:.0%} to {told.high:.0%}; half where both are alike)"
        )
        yield finding(kind, round(told.right_frac * 2 * num), 2 * num, rows, (what, why, mend))


def drawn(part: Sequence[Example], num: int) -> Sequence[Example]:
    """Those with the smallest digests: no order of a file decides."""
    return Chosen(part, np.argsort(column(part, "prompt"), kind="stable")[:num])


def linked(examples: Sequence[Example], step: Step = untold) -> Iterator[Finding]:
    """Labels that go with the columns of `data.columns.slices`: Cramér's V of the table, and its chi-squared test."""
    if not label_counts(examples):
        return
    counts: dict[str, dict[str, dict[str, int]]] = {}
    first: dict[tuple[str, str], str] = {}  # column and value -> file:line
    for example in counted(examples, len(examples), "rows counted by label and group", step):
        if isinstance(example.target, Label):
            for name, value in example.slices.items():
                groups = counts.setdefault(name, {})
                if len(groups) <= MOST_GROUPS:
                    row = groups.setdefault(value, {})
                    first.setdefault((name, value), example.source)
                    row[example.target.text] = row.get(example.target.text, 0) + 1
    counts = {name: groups for name, groups in counts.items() if len(groups) <= MOST_GROUPS}
    for name, groups in counts.items():
        labels = sorted({label for row in groups.values() for label in row})
        table = np.array([[row.get(label, 0) for label in labels] for row in groups.values()])
        if min(table.shape) < 2:
            continue
        strength, p = cramers_v(table)
        if strength >= LINKED and p <= ALPHA:
            rows = [Row(first[name, value], f"{name} = {value}", shares(row)) for value, row in groups.items()]
            made = finding("linked", int(table.sum()), int(table.sum()), rows, (
                f"labelled rows show the label going with {name!r} (Cramér's V {strength:.2f}, p {p:.1g})",
                "a model may answer by the group instead of the case",
                f"look at the scores by {name!r} in the report of a run; add rows that break the link, or drop what a "
                "group has too many of (a group without one of the labels stays as it is)"))  # fmt: skip
            yield replace(made, every=partial(surplus, examples, name, quotas(groups, labels)))


def quotas(groups: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> dict[tuple[str, str], int]:
    """(group, label) -> rows to keep, so that every group that has all labels has them in the same shares, with as many
    rows as that allows."""
    whole = {value: row for value, row in groups.items() if all(label in row for label in labels)}
    sums = {label: sum(row[label] for row in whole.values()) for label in labels}
    kept: dict[tuple[str, str], int] = {}
    for value, row in whole.items():
        part = min(row[label] / sums[label] for label in labels)
        kept |= {(value, label): max(1, round(part * sums[label])) for label in labels}
    return kept


def surplus(examples: Sequence[Example], name: str, kept: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """file:line of the rows beyond those that are kept, which are the first of their prompts' digests."""
    left = dict(kept)
    for example in Chosen(examples, np.argsort(column(examples, "prompt"), kind="stable")):
        if isinstance(example.target, Label) and (key := (example.slices.get(name, ""), example.target.text)) in left:
            left[key] -= 1
            if left[key] < 0:
                yield example.source


def shares(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {num / sum(counts.values()):.0%}" for name, num in sorted(counts.items()))


def cramers_v(table: np.ndarray) -> tuple[float, float]:
    """(V, p) of a table of counts [groups, labels]: 0 where nothing goes together, 1 where one tells the other."""
    found = chi2_contingency(table, correction=False)
    return float((found.statistic / (table.sum() * (min(table.shape) - 1))) ** 0.5), float(found.pvalue)
