"""Several primary metrics in one verdict: levels by hand, the decision together, and that one metric is as ever."""

import dataclasses

import pytest
from tests.unit.evals.test_compare import cases_of

from tunesmith.evals.compare import Cases, Rules, compare, together
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.stats import holm, holm_levels

ACCURACY, WORDS, MACRO = METRICS["accuracy"], METRICS["token_f1"], METRICS["macro_f1"]


def flat(num: int) -> Cases:
    return Cases(["yes"] * num, ["no"] * num, ["no"] * num)


def test_levels_of_the_step_down_by_hand():
    assert holm_levels([0.04, 0.001, 0.02], 0.05) == pytest.approx([0.05, 0.05 / 3, 0.025])
    assert holm_levels([0.04, 0.001, 0.03], 0.05) == pytest.approx([0.025, 0.05 / 3, 0.025])  # it ended at 0.03
    assert holm_levels([0.04], 0.05) == [0.05]


def test_one_metric_is_as_before_and_its_claim_says_the_same():
    verdict = compare(cases_of(20, 8, 100), ACCURACY)
    [claim] = verdict.claims
    assert verdict.claim.startswith("The tuned model is better than the base on accuracy")
    assert (claim.p, claim.p_holm, claim.level) == (verdict.p, verdict.p, 0.05)
    same = {f.name for f in dataclasses.fields(claim)} - {"p_holm", "level"}
    assert {n: getattr(claim, n) for n in same} == {n: getattr(verdict, n) for n in same}


def test_a_claim_that_holds_alone_does_not_hold_among_three():
    """19 against 8 has p = 0.036: better alone; with two claims that show nothing its p is 0.11, and its interval,
    made at a third of the level, holds 0."""
    alone = compare(cases_of(19, 8, 100), ACCURACY)
    assert alone.decision == "better"
    verdict = compare(cases_of(19, 8, 100), ACCURACY, further=[(flat(127), METRICS["exact_match"]), (flat(127), MACRO)])
    first, *others = verdict.claims
    assert verdict.decision == first.decision == "too few cases"
    assert verdict.p == alone.p
    assert first.p_holm == pytest.approx(3 * alone.p)
    assert first.level == pytest.approx(0.05 / 3)
    assert first.interval == verdict.interval
    assert first.interval[0] < 0 < alone.interval[0]
    assert first.smallest_detectable > alone.smallest_detectable
    assert [c.p_holm for c in others] == [1.0, 1.0]
    assert verdict.claim.startswith("Neither better nor worse is shown on any of 3 primary metrics.")
    assert "on exact_match" in verdict.claim
    assert "on macro_f1" in verdict.claim
    assert any(note.startswith("accuracy: with the spread") for note in verdict.notes)


def test_each_claim_agrees_with_its_test_and_keeps_its_own_unit():
    further = [(cases_of(20, 6, 100), WORDS), (cases_of(10, 30, 87), MACRO)]
    verdict = compare(cases_of(40, 8, 79), ACCURACY, Rules(num_flips=999, smallest_that_matters=0.5), further=further)
    assert [c.metric for c in verdict.claims] == ["accuracy", "token_f1", "macro_f1"]
    assert [c.p_holm for c in verdict.claims] == holm([c.p for c in verdict.claims])
    for claim in verdict.claims:
        low, high = claim.interval
        assert (claim.p_holm < 0.05) == (low > 0 or high < 0) == (claim.decision in ("better", "worse"))
    assert [c.smallest_that_matters for c in verdict.claims] == [0.5, 0.02, 0.02]
    assert verdict.decision == "worse"  # one loss outweighs two gains
    assert "Worse on at least one of 3 primary metrics" in verdict.claim


@pytest.mark.parametrize(
    ("decisions", "wanted"),
    [
        (["better", "too few cases"], "better"),
        (["too few cases", "better"], "better"),
        (["better", "worse"], "worse"),
        (["worse", "no relevant difference"], "worse"),
        (["no relevant difference", "better"], "better"),
        (["no relevant difference", "too few cases"], "too few cases"),
        (["no relevant difference", "no relevant difference"], "no relevant difference"),
    ],
)
def test_the_decision_together(decisions, wanted):
    assert together(decisions) == wanted


def test_a_baseline_is_weighed_on_every_metric():
    """The simple one is right as often as the tuned model, and finds less of the rare class."""
    wanted = ["yes"] * 80 + ["no"] * 20
    tuned = ["yes"] * 70 + ["no"] * 30  # 90 right, as the simple one
    cases = Cases(wanted, ["yes"] * 100, tuned, simple={"simple": ["yes"] * 80 + ["no"] * 10 + ["yes"] * 10})

    def doubts(*further):
        verdict = compare(cases, ACCURACY, Rules(num_flips=999), further=further)
        assert verdict.baselines == {"simple": pytest.approx(0.9)}  # of the first metric
        return [n for n in verdict.notes if "simple scores" in n]

    as_well = "simple scores 0.900 against 0.900 of the tuned model: this simple baseline does as well or better"
    assert [n.startswith(as_well) for n in doubts()] == [True]
    first, second = doubts((cases, MACRO))
    assert first.startswith(f"accuracy: {as_well}")
    assert second.startswith("macro_f1: simple scores 0.804 against 0.867 of the tuned model: it may do as well")
    assert len(doubts((Cases(wanted, tuned, tuned), MACRO))) == 1  # a metric that no baseline could be read by


def test_beating_baselines_on_two_metrics_is_twice_as_many_claims():
    """19 against 8 has p = 0.036: shown of one metric, not of two (0.07), each of which says so; without Holm none."""
    cases = cases_of(19, 8, 100)
    cases = dataclasses.replace(cases, simple={"nearest": cases.base})
    alone = compare(cases, ACCURACY)
    assert not any("nearest" in note for note in alone.notes)
    both = compare(cases, ACCURACY, further=[(cases, METRICS["exact_match"])])
    said = [note for note in both.notes if "nearest" in note]
    assert [note.split(":")[0] for note in said] == ["accuracy", "exact_match"]
    assert all("may do as well" in note for note in said)
