"""Metrics that are no means of case scores: functions of counts that add up over the cases, so that ten thousand
swaps of outputs are one matrix product (`permutation.py`). Each equals its library's figure (sacrebleu, scikit-learn)
to rounding, by test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.errors import DataError
from tunesmith.evals.text import as_text, folded

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

MAX_LABELS = 1_000
BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA2 = 4.0  # recall weighs twice as much as precision


@dataclass(frozen=True, slots=True)
class Parts:
    stats: Callable[[Sequence[object], Sequence[object]], np.ndarray]  # (outputs, references) -> [n, K]
    value: Callable[[np.ndarray], np.ndarray]  # [..., K] sums -> [...]


def ratio(num: np.ndarray, den: np.ndarray) -> np.ndarray:
    """num / den, and 0 where den is 0."""
    return np.divide(num, den, out=np.zeros(np.broadcast_shapes(num.shape, den.shape)), where=den > 0)


def along(rows: np.ndarray) -> np.ndarray:
    """The sum over the last axis, which is short: ten times as fast as numpy's own."""
    return rows @ np.ones(rows.shape[-1])


def label_codes(outputs: Sequence[object], references: Sequence[object]) -> tuple[np.ndarray, np.ndarray, int]:
    """Class numbers of outputs and references. The classes are those of the references; any other output is class C."""
    wanted = [folded(r) for r in references]
    classes = {name: k for k, name in enumerate(sorted(set(wanted)))}
    if len(classes) > MAX_LABELS:
        raise DataError(
            f"the references have {len(classes)} different values, more than the {MAX_LABELS} that a metric of labels "
            "takes; for free text choose exact_match, token_f1, rouge_l or chrf."
        )
    given = np.array([classes.get(folded(o), len(classes)) for o in outputs], dtype=np.int64)
    return given, np.array([classes[w] for w in wanted], dtype=np.int64), len(classes)


def f1_stats(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 3C]: right, given and wanted, per class. An output that is no label is a miss of its case's class and
    nothing else.
    """
    given, wanted, num_classes = label_codes(outputs, references)
    is_given = np.eye(num_classes + 1)[given][:, :num_classes]
    is_wanted = np.eye(num_classes)[wanted]
    return np.concatenate([is_given * is_wanted, is_given, is_wanted], axis=1)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean over the classes of 2 right / (given + wanted); a class never given has 0."""
    right, given, wanted = np.split(sums, 3, axis=-1)
    return along(ratio(2 * right, given + wanted)) / right.shape[-1]


def mcc_stats(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 2 + 2(C + 1)]: right, 1, given per class, wanted per class; the last class is "no label"."""
    given, wanted, num_classes = label_codes(outputs, references)
    one_hot = np.eye(num_classes + 1)
    ones = np.ones((len(given), 1))
    return np.concatenate([(given == wanted)[:, None] * ones, ones, one_hot[given], one_hot[wanted]], axis=1)


def mcc(sums: np.ndarray) -> np.ndarray:
    """Matthews correlation for C classes (Gorodkin 2004); 0 where either side has one class only."""
    right, num = sums[..., 0], sums[..., 1]
    given, wanted = np.split(sums[..., 2:], 2, axis=-1)
    spread = np.maximum(num**2 - along(given**2), 0) * np.maximum(num**2 - along(wanted**2), 0)
    # counts are whole numbers: less than a tenth of a case of spread is rounding
    return np.where(spread > 0.01, ratio(right * num - along(given * wanted), np.sqrt(spread)), 0.0)


@cache
def sentence_bleu() -> BLEU:
    """Its counts are those of the corpus metric; only the score that is displayed differs."""
    from sacrebleu.metrics import BLEU  # a part of a second to import

    return BLEU(effective_order=True)


def bleu_stats(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    """[n, 10]: matches of order 1 to 4, n-grams of order 1 to 4, length given, length wanted (sacrebleu, 13a words)."""
    rows = []
    for output, reference in zip(outputs, references, strict=True):
        score = sentence_bleu().sentence_score(as_text(output), [as_text(reference)])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=float).reshape(len(rows), 2 * BLEU_ORDER + 2)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU, 0 to 100, with sacrebleu's default smoothing of orders without a match ("exp")."""
    log_sum = np.zeros(sums.shape[:-1])
    shrink = np.ones(sums.shape[:-1])
    for k in range(BLEU_ORDER):
        matches, total = sums[..., k], sums[..., BLEU_ORDER + k]
        shrink = np.where(matches > 0, shrink, 2 * shrink)
        precision = ratio(np.where(matches > 0, matches, 1 / shrink), total)
        log_sum += np.log(np.maximum(precision, 1e-300))
    given, wanted = sums[..., -2], sums[..., -1]
    brevity = np.minimum(0.0, 1 - ratio(wanted, given))
    has_any = (along(sums[..., :BLEU_ORDER]) > 0) & (sums[..., 2 * BLEU_ORDER - 1] > 0)
    return np.where(has_any, 100 * np.exp(log_sum / BLEU_ORDER + brevity), 0.0)


def bleu_case(output: object, reference: object) -> float:
    """BLEU of one case, 0 to 100, over the orders it is long enough for. For display: the corpus score is not its
    mean.
    """
    return float(sentence_bleu().sentence_score(as_text(output), [as_text(reference)]).score)


def chrf_counts(output: object, reference: object) -> np.ndarray:
    """[18]: of each order 1 to 6 the character n-grams given, wanted, matched; white space is left out."""
    got, wanted = ("".join(as_text(t).split()) for t in (output, reference))
    row = np.zeros((CHRF_ORDER, 3))
    for k in range(CHRF_ORDER):
        a = Counter(got[i : i + k + 1] for i in range(len(got) - k))
        b = Counter(wanted[i : i + k + 1] for i in range(len(wanted) - k))
        if b:  # as sacrebleu: what is given where the reference is too short for the order does not count
            row[k] = a.total(), b.total(), (a & b).total()
    return row.reshape(-1)


def chrf_stats(outputs: Sequence[object], references: Sequence[object]) -> np.ndarray:
    rows = [chrf_counts(output, reference) for output, reference in zip(outputs, references, strict=True)]
    return np.array(rows).reshape(len(rows), 3 * CHRF_ORDER)


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF2, 0 to 100: precision and recall are averaged over the orders that both sides have."""
    orders = sums.reshape(*sums.shape[:-1], CHRF_ORDER, 3)
    given, wanted, matched = orders[..., 0], orders[..., 1], orders[..., 2]
    counts = (given > 0) & (wanted > 0)
    num_orders = along(counts)
    precision = ratio(along(ratio(matched, given) * counts), num_orders)
    recall = ratio(along(ratio(matched, wanted) * counts), num_orders)
    return 100 * ratio((1 + CHRF_BETA2) * precision * recall, CHRF_BETA2 * precision + recall)


def chrf_case(output: object, reference: object) -> float:
    """chrF2 of one case, 0 to 100. For display: the corpus score is not its mean."""
    return float(chrf(chrf_counts(output, reference)))


MACRO_F1 = Parts(f1_stats, macro_f1)
MCC = Parts(mcc_stats, mcc)
BLEU_PARTS = Parts(bleu_stats, bleu)
CHRF = Parts(chrf_stats, chrf)
