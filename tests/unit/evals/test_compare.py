"""Decisions, notes and refusals of the verdict."""

import dataclasses

import numpy as np
import pytest

from tunesmith.errors import DataError
from tunesmith.evals import metrics
from tunesmith.evals.compare import Cases, Rules, compare, decide, secondary
from tunesmith.evals.metrics import METRICS

ACCURACY = METRICS["accuracy"]


def cases_of(won, lost, both, neither=0, groups=None):
    references = ["yes"] * (won + lost + both + neither)
    base = ["no"] * won + ["yes"] * (lost + both) + ["no"] * neither
    tuned = ["yes"] * won + ["no"] * lost + ["yes"] * both + ["no"] * neither
    return Cases(references, base, tuned, groups)


@pytest.mark.parametrize(
    ("interval", "decision"),
    [
        ((0.001, 0.01), "better"),
        ((-0.01, -0.001), "worse"),
        ((0.0, 0.01), "no relevant difference"),
        ((-0.02, 0.02), "no relevant difference"),
        ((-0.02, 0.021), "too few cases"),
        ((-0.3, 0.5), "too few cases"),
        ((0.0, 0.0), "no relevant difference"),
    ],
)
def test_decision_table(interval, decision):
    assert decide(interval, 0.02) == decision


def test_a_plain_verdict():
    verdict = compare(cases_of(60, 10, 200, 30), ACCURACY, task="classify")
    assert (verdict.base, verdict.tuned) == (0.7, pytest.approx(260 / 300))
    assert verdict.effect == pytest.approx(50 / 300)
    assert verdict.decision == "better"
    assert verdict.interval[0] > 0
    assert verdict.p < 1e-8
    assert (verdict.num_cases, verdict.test, verdict.alpha) == (300, "mid-p McNemar", 0.05)
    assert "better than the base on accuracy: 0.700 → 0.867" in verdict.claim
    assert verdict.base_interval[0] < 0.7 < verdict.base_interval[1]
    mirrored = compare(cases_of(10, 60, 200, 30), ACCURACY)
    assert mirrored.decision == "worse"
    assert mirrored.interval == pytest.approx((-verdict.interval[1], -verdict.interval[0]))


@pytest.mark.parametrize("name", ["accuracy", "token_f1", "macro_f1", "mcc", "bleu", "chrf"])
def test_identical_outputs(name):
    text = "one two three four"
    few, many = (
        compare(Cases([text, "other words are here"] * n, [text] * 2 * n, [text] * 2 * n), METRICS[name])
        for n in (5, 300)
    )
    assert (few.effect, few.p, few.decision) == (0, 1, "too few cases")
    assert (many.effect, many.p) == (0, 1)
    assert many.decision == "no relevant difference"
    assert many.interval[0] < 0 < many.interval[1]  # no difference in 600 cases is not certainty


@pytest.mark.parametrize("name", ["accuracy", "token_f1", "macro_f1", "mcc", "bleu", "chrf"])
@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_tiny_sets_never_crash(name, num):
    for base, tuned in (("a b c d e", "x"), ("x", "a b c d e"), ("", "")):
        verdict = compare(Cases(["a b c d e"] * num, [base] * num, [tuned] * num), METRICS[name])
        figures = [verdict.base, verdict.tuned, verdict.p, *verdict.interval, verdict.smallest_detectable]
        assert np.isfinite(figures).all()
        assert (verdict.p < 0.05) == (verdict.interval[0] > 0 or verdict.interval[1] < 0)
        if num < 4:
            assert verdict.decision == "too few cases"


def test_five_groups_cannot_show_anything():
    groups = [f"g{k // 40}" for k in range(200)]
    verdict = compare(cases_of(150, 0, 50, groups=groups), ACCURACY)
    assert verdict.decision == "too few cases"
    assert verdict.p >= 2 / 32
    assert "5 groups as units" in verdict.test
    assert any("5 independent units are too few" in note for note in verdict.notes)
    assert compare(cases_of(150, 0, 50), ACCURACY).decision == "better"


def test_cases_without_a_group_stand_alone():
    loose = compare(cases_of(30, 5, 65, groups=[None] * 100), ACCURACY)
    assert loose.test == "mid-p McNemar"
    some = compare(cases_of(30, 5, 65, groups=["g"] * 10 + [None] * 90), ACCURACY)
    assert "91 groups as units" in some.test


def test_small_but_shown_is_better_with_a_note():
    verdict = compare(cases_of(30, 5, 2965), ACCURACY)
    assert verdict.decision == "better"
    assert any("smaller than what was said to matter (0.020)" in note for note in verdict.notes)


def test_baselines_are_weighed():
    cases = cases_of(60, 10, 200, 30)
    right = [t if k % 40 else "no" for k, t in enumerate(cases.tuned)]
    simple = {"as good": cases.tuned, "near": right, "poor": cases.base, "best": cases.references}
    verdict = compare(dataclasses.replace(cases, simple=simple), ACCURACY)
    assert verdict.baselines == pytest.approx(
        {"as good": 260 / 300, "near": 253 / 300, "poor": 0.7, "best": 1.0}, abs=0.01
    )
    said = " ".join(verdict.notes)
    assert "as good scores 0.867 against 0.867 of the tuned model: this simple baseline does as well or better" in said
    assert "best scores 1.000" in said
    assert "poor" not in said


def test_an_announced_detectable_effect_is_kept():
    assert compare(cases_of(9, 1, 90), ACCURACY, Rules(smallest_detectable=0.123)).smallest_detectable == 0.123


def test_nan_and_wrong_lengths_are_refused():
    broken = metrics.case_mean("broken", lambda o, r: float("nan") if o == "b" else 1.0, unit="")
    with pytest.raises(DataError, match="broken of the tuned output of case 1"):
        compare(Cases(["a", "a"], ["a", "a"], ["a", "b"]), broken)
    with pytest.raises(DataError, match="differ in number"):
        compare(Cases(["a", "a"], ["a"], ["a", "b"]), ACCURACY)
    with pytest.raises(DataError, match="no held-out case"):
        compare(Cases([], [], []), ACCURACY)
    for rules in (Rules(alpha=0.0), Rules(smallest_that_matters=-1.0), Rules(smallest_that_matters=float("nan"))):
        with pytest.raises(DataError):
            compare(cases_of(1, 1, 1), ACCURACY, rules)


def test_secondary_metrics_have_intervals_and_no_decision():
    rows = secondary(cases_of(30, 5, 65), [METRICS["token_f1"], METRICS["macro_f1"]])
    assert list(rows) == ["token_f1", "macro_f1"]
    for row in rows.values():
        assert row["role"] == "secondary"
        assert "decision" not in row
        assert row["interval"][0] <= row["effect"] <= row["interval"][1]
