"""Numbers and sentences as people read them, each against a value worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.run_folders import EXPORT, VERDICT, case, make

from tunesmith.evals.metrics import METRICS
from tunesmith.report import words
from tunesmith.report.facts import Facts, read


def facts_of(folder: Path, **files: Any) -> Facts:
    return read(make(folder, **files))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.500"), (-0.5, "−0.500"), (31.204, "31.20"), (1.5, "1.500"), (None, "not known"), (math.nan, "not known"),
     (math.inf, "not known"), (0, "0.000"), (-0.0003, "−0.0003"), (-0.00001, "0.000"), (-1234.5, "−1,234.50")],
)  # fmt: skip
def test_number(value: Any, text: str) -> None:
    assert words.number(value) == text


def test_signs() -> None:
    assert [words.signed(v) for v in (0.25, -0.25, 0.0, None)] == ["+0.250", "−0.250", "0.000", "not known"]
    assert words.interval((-0.1, 0.2), with_sign=True) == "−0.100 to +0.200"
    assert words.interval(None) == "not known"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (None, "not known"),
    ],
)
def test_duration(seconds: Any, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.00002, "at most once in 10,000 times"), (0.0001, "at most once in 10,000 times"),
     (0.0002, "about 2 times in 10,000"), (0.0031, "about 3 times in 1,000"), (0.031, "about 3 times in 100"),
     (0.43, "about 43 times in 100"), (0.99, "almost always")],
)  # fmt: skip
def test_chance_is_near_the_probability(p: float, text: str) -> None:
    assert words.chance(p) == text


def test_chance_never_errs_by_a_third() -> None:
    for k in range(10, 9500):
        p = k / 10_000
        times, of = (
            words.chance(p).removeprefix("about ").replace("once", "1 times").replace(",", "").split(" times in ")
        )
        assert abs(int(times) / int(of) - p) <= p / 3


def test_every_metric_has_words_and_every_word_a_metric() -> None:
    assert set(words.METRICS) == set(METRICS)


def test_controls_are_shown_and_the_rest_is_kept() -> None:
    assert words.clean("a\x00b\x1b\x7f\x85\ud800\r\nc\td") == "a␀b␛␡��\nc\td"
    assert words.clean("שלום 👩‍🔧 \u202e") == "שלום 👩‍🔧 \u202e"


def answers_of(folder: Path, verdict: dict[str, Any], **files: Any) -> words.Answers:
    return words.answers(facts_of(folder, verdict={**VERDICT, **verdict}, **files))


def said(sentences: tuple[words.Sentence, ...]) -> str:
    return " ".join(words.plain(s) for s in sentences)


def test_gain_against_what_matters(tmp_path: Path) -> None:
    for interval, text in (
        ([0.05, 0.1], "Even the low end of the interval is more than the 0.020 that matters."),
        ([0.01, 0.1], "may be smaller than the 0.020"),
        ([0.001, 0.015], "real but smaller than the 0.020"),
    ):
        assert text in said(answers_of(tmp_path, {"interval": interval}).how_much)


def test_a_baseline_as_good_holds_the_yes_back(tmp_path: Path) -> None:
    yes = "Yes, instead of the base model, for inputs like those it was tested on."
    but = "Yes, but something simpler may do as well."
    assert words.plain(answers_of(tmp_path, {"baselines": {"majority": 0.679}}).may_use) == yes
    found = answers_of(tmp_path, {"baselines": {"majority": 0.69}})  # within the 0.02 that matters of 0.7
    assert words.plain(found.may_use) == "There may be no need: something simpler does about as well."
    assert "majority: 0.690, without a language model." in said(found.because)
    note = "TF-IDF scores 0.650 against 0.700 of the tuned model: it may do as well."
    found = answers_of(tmp_path, {"baselines": {"TF-IDF": 0.65}, "notes": [note]})
    assert words.plain(found.may_use) == but
    assert found.notes == (note,)
    lost = [{"name": "reading", "base": 0.9, "tuned": 0.2, "effect": -0.7, "interval": [-0.8, -0.6], "passed": False}]
    found = answers_of(tmp_path, {"baselines": {"TF-IDF": 0.65}, "notes": [note], "guard": lost})
    assert words.plain(found.may_use).startswith("Only where the losses")  # a loss weighs more than a doubt


def test_a_differing_export_is_a_no(tmp_path: Path) -> None:
    export = {**EXPORT, "merged": {**EXPORT["merged"], "same_text": False}}
    found = answers_of(tmp_path, {}, export=export)
    assert words.plain(found.may_use).startswith("Not the exported files")
    assert "Exported and loaded again (merged), it does not answer as the measured model does" in said(found.because)
    assert "Exported and loaded again (adapter), it answers as the measured model does on 8 prompts." in said(
        found.because
    )
    export["merged"] |= {"num_same": 6, "num_ties": 1}
    assert words.plain(answers_of(tmp_path, {}, export=export).may_use).startswith("Not the exported files")
    export["merged"] |= {"num_ties": 2}  # what rounding to 16 bits decides is no other model
    found = answers_of(tmp_path, {}, export=export)
    assert words.plain(found.may_use) == words.plain(answers_of(tmp_path, {}).may_use)
    assert "on 8 prompts; where they part (2), rounding to 16 bits decides a near tie." in said(found.because)


def test_lead_counts_right_answers_only_where_these_are_the_score(tmp_path: Path) -> None:
    right = "Of 10 cases that were kept out of training, the base model got 4 right and the tuned model 7."
    assert words.plain(answers_of(tmp_path, {}).lead) == right
    macro = answers_of(tmp_path, {"metric": "macro_f1", "base": 0.38, "tuned": 0.66})
    assert words.plain(macro.lead) == "On 10 cases that were kept out of training, macro-F1 went from 0.380 to 0.660."


def test_graded_cases_that_got_worse_are_counted(tmp_path: Path) -> None:
    rows = [case(0, 0.5, 0.25), case(1, 0.25, 0.75, tuned_stopped=False), case(2, 0.5, 0.5)]
    found = answers_of(tmp_path, {"metric": "rouge_l", "base": 0.4, "tuned": 0.5}, cases=rows)
    assert "1 case scored lower than before." in said(found.lost)
    assert "1 answer of the tuned model ran into the length limit." in said(found.lost)
