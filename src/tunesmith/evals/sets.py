"""Micro-averaged F1: of one label per case, and of sets of labels; and of these the mean of the labels' F1."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tunesmith.data.columns import BETWEEN, NO_LABEL
from tunesmith.evals.counted import Parts, label_codes, macro_f1, ratio
from tunesmith.evals.text import as_text, folded


def label_set(given: object) -> frozenset[str]:
    """The labels of a text: the members of a JSON array, else what stands between commas, semicolons, bars and line
    ends. White space is folded; order and repetition do not matter."""
    text = as_text(given)
    if text.lstrip().startswith("["):
        try:
            return frozenset(folded(v if isinstance(v, str) else json.dumps(v)) for v in json.loads(text)) - {""}
        except (ValueError, RecursionError):
            pass  # an array that was not closed is read as its parts
    return frozenset(folded(part) for part in BETWEEN.split(text)) - {""}


def f1(sums: np.ndarray) -> np.ndarray:
    """2 right / (given + wanted) of sums [..., 3]; 1 where nothing was wanted and nothing given."""
    right, both = sums[..., 0], sums[..., 1] + sums[..., 2]
    return np.where(both > 0, ratio(2 * right, both), 1.0)


def one_label(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 3]: right, given and wanted. An output that is no label of the references was not given: it costs recall and
    no precision, as in scikit-learn's micro F1 over the known labels."""
    given, wanted, num_classes = label_codes(outputs, references)
    return np.stack([given == wanted, given < num_classes, np.ones(len(wanted))], axis=-1).astype(float)


def set_counts(output: object, reference: object) -> tuple[int, int, int]:
    got, wanted = label_set(output), label_set(reference)
    return len(got & wanted), len(got), len(wanted)


def label_sets(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 3]: labels right, given and wanted; an invented label was given, and costs precision."""
    rows = [set_counts(output, reference) for output, reference in zip(outputs, references, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), 3)


def each_label(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 3C]: right, given and wanted, per label that a reference has. Saying that none fits is no label."""
    got, wanted = ([label_set(t) or {NO_LABEL} for t in texts] for texts in (outputs, references))
    names = sorted(frozenset().union(*wanted) - {NO_LABEL}) or [NO_LABEL]
    rows = ([[name in row for name in names] for row in side] for side in (got, wanted))
    is_given, is_wanted = (np.array(row, dtype=float).reshape(-1, len(names)) for row in rows)
    return np.concatenate([is_given * is_wanted, is_given, is_wanted], axis=1)


def set_case(output: object, reference: object) -> float:
    """F1 of one case's sets; two empty sets: 1. For display: the score of all cases is not its mean."""
    return float(f1(np.array(set_counts(output, reference), dtype=float)))


MICRO_F1 = Parts(one_label, f1)
SET_F1 = Parts(label_sets, f1)
MACRO_SET_F1 = Parts(each_label, macro_f1)
