"""Confident learning: the rule by hand, and how well flipped labels are found."""

from __future__ import annotations

import random

import numpy as np

from tunesmith.data.label_errors import findings, judged, suspects
from tunesmith.types import Example, Label, Message

NUM, CLASSES, FLIPPED_FRAC = 3000, 6, 0.05


def made(seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts of six labels, pairs of which share half of their words; 5% are flipped to the other of the pair.
    (texts, labels as given, which are wrong)"""
    rng = random.Random(seed)
    general = [f"general{k}" for k in range(300)]
    shared = [[f"pair{p}word{k}" for k in range(30)] for p in range(CLASSES // 2)]
    own = [[f"class{c}word{k}" for k in range(30)] for c in range(CLASSES)]
    texts, labels = [], np.array([k % CLASSES for k in range(NUM)])
    for label in labels.tolist():
        words = rng.choices(general, k=8) + rng.choices(shared[label // 2], k=4) + rng.choices(own[label], k=3)
        rng.shuffle(words)
        texts.append(" ".join(words).translate(str.maketrans("0123456789", "abcdefghij")))
    wrong = np.zeros(NUM, bool)
    wrong[rng.sample(range(NUM), int(FLIPPED_FRAC * NUM))] = True
    return texts, np.where(wrong, labels ^ 1, labels), wrong


def test_flips_between_confusable_classes_are_found() -> None:
    """Mutants: the model has seen the row that it judges; classes are compared without their own bars."""
    texts, labels, wrong = made(1)
    part = np.arange(NUM)
    found = suspects(texts, labels, part)
    is_hit = wrong[found.at]
    precision, recall = is_hit[:50].mean(), is_hit.sum() / wrong.sum()
    clean = suspects(texts, np.where(wrong, labels ^ 1, labels), part)
    false = 1000 * len(clean.at) / NUM
    print(f"precision at 50: {precision:.2f}, recall {recall:.2f}, false alarms per 1,000 clean rows {false:.1f}")
    assert precision >= 0.95
    assert recall >= 0.8
    assert false <= 5
    assert (found.fits[is_hit] == labels[found.at][is_hit] ^ 1).all()


def test_the_rule_by_hand() -> None:
    """The bars are the mean chances of the rows of each label: 0.55 for label 0, 0.7 for label 1."""
    chances = np.array([[0.95, 0.05], [0.9, 0.1], [0.02, 0.98], [0.33, 0.67], [0.3, 0.7], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = judged(chances, labels)
    assert (found.at.tolist(), found.fits.tolist()) == ([2], [1])  # row 3 is unsure: 0.67 is below the bar
    np.testing.assert_allclose(found.doubt, [0.96])
    assert found.right_frac == 4 / 6


def example(text: str, label: str, line: int) -> Example:
    return Example(f"{line}-1", (Message("user", text),), Label(label), source=f"rows:{line}")


def test_findings_name_the_row_and_what_would_fit() -> None:
    texts, labels, _ = made(2)
    rows = [example(text, f"label {label}", line) for line, (text, label) in enumerate(zip(texts, labels.tolist()))]
    [found] = findings(rows)
    assert found.of == NUM
    assert found.every is not None
    every = list(found.every())
    assert (len(every), every[: len(found.rows)]) == (found.count, [row.source for row in found.rows])
    first = found.rows[0]
    given = labels[int(first.source.removeprefix("rows:"))]
    assert first.note.startswith(f"label {given}, rather label {given ^ 1} (")


def test_labels_that_cannot_be_predicted_accuse_nobody() -> None:
    texts, labels, _ = made(3)
    random.Random(1).shuffle(texts)
    rows = [example(text, f"label {label}", line) for line, (text, label) in enumerate(zip(texts, labels.tolist()))]
    assert list(findings(rows)) == []
