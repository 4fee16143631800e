"""Five questions, each with one plain sentence and its number, whatever the run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.run_folders import BASELINE_ONLY, FORMS, METRICS, VERDICT, case, make

from tunesmith.evals.metrics import METRICS as OURS
from tunesmith.report import first_screen, words
from tunesmith.report.facts import read

QUESTIONS = ["Is it better?", "By how much?", "How sure is that?", "What did it lose?", "May I use it?"]


def said(folder: Path, verdict: dict[str, Any] | None = None, **files: Any) -> list[str]:
    found = first_screen.rows(read(make(folder, verdict={**VERDICT, **(verdict or {})}, **files)))
    assert [row.question for row in found] == QUESTIONS
    return [words.plain(row.answer) for row in found]


def test_a_gain_in_right_answers(tmp_path: Path) -> None:
    assert said(tmp_path) == [
        "On 10 cases kept out of training, the tuned model (trained on your examples) did better than the base model "
        "(before training).",
        "Up 30 points of 100, from 40 to 70, counting answers that are right.",
        "Fairly sure: the true gain is likely 6 to 51 points (95% interval). Luck alone would show as much about "
        "3 times in 100 tries.",
        "1 of 10 cases that the base had right is now wrong. Other abilities: not checked in this run.",
        "Yes, instead of the base model, for inputs like those it was tested on. But check its answers: "
        "3 of 10 are wrong.",
    ]


def test_a_better_score_of_free_texts_is_no_truth(tmp_path: Path) -> None:
    """Mutant: a bare yes, which a reader of medical summaries takes for "its answers are right"."""
    rows = [{**case(i, 0.2, 0.5), "tuned_stopped": i > 1} for i in range(10)]
    texts = {"metric": "rouge_l", "base": 0.2, "tuned": 0.5}
    yes = "Yes, instead of the base model, for inputs like those it was tested on."
    doubt = " But read some answers first: sharing words with the right answer is not being true"
    cut = ", and 2 of 10 break off at the length limit."
    assert said(tmp_path, texts, cases=rows)[4] == yes + doubt + cut
    whole = [{**row, "tuned_stopped": True} for row in rows]
    assert said(tmp_path, texts, cases=whole)[4] == yes + doubt + "."
    assert said(tmp_path, {**texts, "metric": "seconds_saved"}, cases=whole)[4] == yes
    guard = [{"name": "reading", "base": 0.5, "tuned": 0.2, "effect": -0.3, "interval": [-0.4, -0.2], "passed": False}]
    only = "Only where the losses named here do not matter."
    assert said(tmp_path, {**texts, "guard": guard}, cases=rows)[4] == only + doubt + cut
    assert said(tmp_path, {**texts, "decision": "worse"}, cases=rows)[4].startswith("No. Keep the base model")


def test_a_loss(tmp_path: Path) -> None:
    found = said(tmp_path, {"decision": "worse", "base": 0.7, "tuned": 0.4, "effect": -0.3, "interval": [-0.5, -0.05],
                            "p": 0.0004})  # fmt: skip
    assert found[1].startswith("Down 30 points of 100, from 70 to 40")
    assert found[2].startswith(
        "Very sure: the true loss is likely 5 to 50 points (95% interval). Luck alone would show"
    )
    assert found[4] == "No. Keep the base model: it does this task better."


def test_too_few_cases_and_no_difference(tmp_path: Path) -> None:
    found = said(tmp_path, {"decision": "too few cases", "interval": [-0.03, 0.09], "effect": 0.03, "tuned": 0.43,
                            "num_cases": 30})  # fmt: skip
    assert found[2] == (
        "Not sure: the true difference may lie anywhere from −3 to +9 points (95% interval); 30 cases cannot tell more."
    )
    found = said(tmp_path, {"decision": "no relevant difference", "interval": [-0.01, 0.012], "effect": 0.001})
    assert found[2] == (
        "Sure enough: the true difference is likely −1.0 to +1.2 points (95% interval), and less than 2.0 does not "
        "matter."
    )
    assert said(tmp_path, {"effect": 0.0, "tuned": 0.4})[1].startswith("By nothing that shows: 40 before and 40 after")


def test_rounded_points_add_up(tmp_path: Path) -> None:
    found = said(tmp_path, {"base": 0.2274, "tuned": 0.4526, "effect": 0.2252, "interval": [0.183, 0.27]})
    assert found[1].startswith("Up 22.5 points of 100, from 22.7 to 45.3,")
    found = said(tmp_path, {"base": 0.22, "tuned": 0.45, "effect": 0.23, "interval": [0.18, 0.27]})
    assert found[1].startswith("Up 23 points of 100, from 22 to 45,")


def test_what_needs_no_model_and_beats_the_base_is_named(tmp_path: Path) -> None:
    """Mutant: a gain over a base that a fixed answer beats, told as if it began at nothing."""
    texts = {"metric": "rouge_l", "base": 0.23, "tuned": 0.52, "effect": 0.29, "interval": [0.23, 0.34]}
    found = said(tmp_path, {**texts, "baselines": {"majority answer": 0.31, "nearest training example": 0.2}})
    assert found[1].endswith(
        "with the right answer. Without a language model, majority answer gets 31: better than the base."
    )
    assert said(tmp_path, {**texts, "baselines": {"majority answer": 0.2}})[1].endswith("with the right answer.")
    assert said(tmp_path, {**texts, "baselines": {"TF-IDF": 0.9}})[1].endswith("TF-IDF gets 90: better than both.")
    less = {"metric": "bits_per_byte", "base": 2.5, "tuned": 2.0, "effect": 0.5, "less_is_better": True}
    found = said(tmp_path, {**less, "interval": [0.2, 0.8], "baselines": {"n-grams": 2.2, "noise": 2.6}})
    assert found[1].endswith(" Without a language model, n-grams gets 2.20: better than the base.")


def test_two_models_that_get_nothing_right_are_told_so(tmp_path: Path) -> None:
    """Mutant: "Test on more cases first", which reads as if more cases could show that a model works."""
    rows = [{**case(i, 0.0, 0.0), "base_stopped": i > 7, "tuned_stopped": i > 4} for i in range(10)]
    none = {"decision": "too few cases", "base": 0.0, "tuned": 0.0, "effect": 0.0, "interval": [-0.2, 0.2]}
    found = said(tmp_path, none, cases=rows)
    assert found[0].endswith("nor the base model (before training) got one right.")
    assert found[2].endswith(
        " Of 10 answers 8 of the base and 5 of the tuned model broke off at the length limit: a larger "
        "evals.max_new_tokens may change the result."
    )
    assert found[4] == "No: it got none of 10 cases right."
    likely = {"metric": "bits_per_byte", "base": 0.6, "tuned": 0.4, "effect": 0.2, "interval": [0.1, 0.3]}
    assert "broke off" not in said(tmp_path, {**likely, "less_is_better": True}, cases=rows)[2]  # no answer is read


def test_of_dialogues_each_answer_is_counted_that_broke_off(tmp_path: Path) -> None:
    """Two of three turns of the base, one of the tuned model: mutant, dialogues of which some answer did."""
    turns = [{"base_stopped": at > 1, "tuned_stopped": at > 0} for at in range(3)]
    rows = [case(i, 0.2, 0.4, turns=turns, base_stopped=False, tuned_stopped=False) for i in range(10)]
    assert " Of 30 answers 20 of the base and 10 of the tuned model broke off" in said(tmp_path, {}, cases=rows)[2]


def test_demands_of_the_recipe_are_told(tmp_path: Path) -> None:
    met, not_met = (
        {"name": n, "wanted": "w", "found": "f", "passed": p} for n, p in (("effect", True), ("stopped", False))
    )
    assert said(tmp_path, {}, gates=[met, not_met])[4].endswith(" What the recipe demands is not met: stopped.")
    assert said(tmp_path, {}, gates=[met])[4].endswith(" All that the recipe demands is met.")


def test_a_small_effect_is_not_rounded_away(tmp_path: Path) -> None:
    found = said(tmp_path, {"base": 0.412, "tuned": 0.426, "effect": 0.014, "interval": [0.003, 0.025]})
    assert found[1].startswith("Up 1.4 points of 100, from 41.2 to 42.6,")
    assert "0.3 to 2.5 points" in found[2]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_metric_is_said_on_its_own_scale(tmp_path: Path, name: str) -> None:
    scale = 100.0 if OURS[name].high == 100.0 else 1.0
    verdict = {"metric": name, "base": 0.2 * scale, "tuned": 0.5 * scale, "effect": 0.3 * scale}
    if name == "bits_per_byte":  # less is better: the effect is the gain
        verdict |= {"base": 0.5, "tuned": 0.2, "less_is_better": True}
    found = said(tmp_path, {**verdict, "interval": [0.1 * scale, 0.4 * scale]})
    own = {
        "mcc": "Up 0.300, from 0.200 to 0.500",
        "bits_per_byte": "Down 0.300, from 0.500 to 0.200 in bits per byte; less is better",
        "preference_margin": "Up 0.300, from 0.200 to 0.500 in ",
        "feedback_margin": "Up 0.300, from 0.200 to 0.500 in ",
        "reward_margin": "Up 0.300, from 0.200 to 0.500 in ",
        "mean_reward": "Up 0.300, from 0.200 to 0.500 in ",
        "reward_loss": "Up 0.300, from 0.200 to 0.500 in ",
        "chosen_nats": "Up 30.00, from 20.00 to 50.00 in ",  # nats, which are no share
        "rejected_nats": "Up 30.00, from 20.00 to 50.00 in ",
    }
    assert found[1].startswith(own.get(name, "Up 30 points of 100, from 20 to 50"))
    assert "JSON" not in found[1] or name.startswith("json")


def test_less_is_better_and_relative_scores_are_said_so(tmp_path: Path) -> None:
    less = {"metric": "bits_per_byte", "base": 2.5, "tuned": 2.0, "effect": 0.5, "interval": [0.2, 0.8],
            "less_is_better": True, "baselines": {"n-grams": 1.9, "noise": 2.6}}  # fmt: skip
    rows = [{**case(i, 2.5, 2.0 if i else 3.0), "scale": "less"} for i in range(10)]
    found = said(tmp_path / "less", less, cases=rows)
    assert found[1].startswith("Down 0.500, from 2.50 to 2.00 in bits per byte; less is better.")
    assert found[3].startswith("1 of 10 cases scored worse than before.")
    assert "n-grams, without a language model, gets 1.90," in found[4]
    judged = {"metric": "judge", "base": 0.3, "tuned": 0.7, "effect": 0.4, "interval": [0.1, 0.7]}
    rows = [{**case(i, float(i < 3), float(i >= 3)), "scale": "relative"} for i in range(10)]
    found = said(tmp_path / "judge", judged, cases=rows)
    assert found[1] == "Up 40 points of 100, from 30 to 70, counting cases in which the judge prefers it."
    assert found[3].startswith("3 of 10 cases in which the judge prefers the base model's answer.")


def test_a_metric_of_somebody_else_keeps_its_scale(tmp_path: Path) -> None:
    found = said(
        tmp_path, {"metric": "seconds_saved", "base": 10.0, "tuned": 12.5, "effect": 2.5, "interval": [1.0, 4.0]}
    )
    assert found[1] == "Up 2.50, from 10.00 to 12.50 in seconds saved; larger is better."


def test_guards_are_named_with_their_numbers(tmp_path: Path) -> None:
    lost = {"name": "arithmetic", "base": 0.5, "tuned": 0.25, "effect": -0.25, "interval": [-0.3, -0.2], "margin": 0.02}
    kept = {**lost, "name": "reading", "tuned": 0.51}
    found = said(tmp_path, {"guard": [{**kept, "passed": True}, {**lost, "passed": False}]})
    assert found[3].endswith("Other abilities, lost: arithmetic (50 → 25 of 100); kept: 1 of 2.")
    assert found[4] == "Only where the losses named here do not matter."


def test_better_is_not_called_good(tmp_path: Path) -> None:
    rows = [case(i, float(i < 2), float(i < 4)) for i in range(10)]
    found = said(tmp_path, {"base": 0.2, "tuned": 0.4, "effect": 0.2}, cases=rows)
    assert found[4] == "Only if each answer is checked: it beats the base model, but 6 of 10 answers are wrong."
    rows = [case(i, 0.0, 1.0) for i in range(10)]
    assert said(tmp_path, {"base": 0.0, "tuned": 1.0, "effect": 1.0}, cases=rows)[4].endswith("those it was tested on.")


def test_a_json_answer_is_right_only_in_every_field(tmp_path: Path) -> None:
    rows = [case(i, 0.25, 0.5 if i else 1.0, reference='{"a": 1, "b": 2}') for i in range(3)]
    found = said(tmp_path, {"metric": "json_fields", "base": 0.25, "tuned": 0.67, "effect": 0.42}, cases=rows)
    assert found[4].endswith("2 of 3 answers are not right in every field.")


def test_something_simpler_is_named(tmp_path: Path) -> None:
    found = said(tmp_path, {"baselines": {"TF-IDF": 0.72, "majority": 0.3}})
    assert found[4] == "There may be no need: TF-IDF, without a language model, gets 72, this model 70."


def test_a_run_that_stopped_says_how_far_it_came(tmp_path: Path) -> None:
    rows = [case(i, float(i < 3), None) for i in range(12)]
    facts = read(make(tmp_path, verdict=None, cases=rows, metrics=METRICS[:1], without=("export.json",)))
    found = [words.plain(row.answer) for row in first_screen.rows(facts)]
    assert found[0].endswith("Training came to update 1 of 3.")
    assert found[1] == "Not known yet. The base model alone scores 0.250 on average over 12 cases."
    assert found[4] == "Not yet: nothing shows that tuning helped. Go on with --resume."
    bare = read(make(tmp_path / "b", verdict=None, without=(*BASELINE_ONLY, "scores/cases.parquet")))
    found = [words.plain(row.answer) for row in first_screen.rows(bare)]
    assert found[0].endswith("Training had not begun.")
    assert found[1] == words.plain(first_screen.NOT_YET)
    dev = read(make(tmp_path / "c", verdict=None, forms=FORMS, without=("scores/cases.parquet",)))
    assert words.plain(first_screen.rows(dev)[1].answer).endswith("The base model alone scored 0.440 on 16 dev cases.")


def test_the_first_note_stands_on_the_first_screen(tmp_path: Path) -> None:
    assert first_screen.first_note({"notes": ["the data is made by a program", "b"]}) == (
        "The data is made by a program",
        1,
    )
    assert first_screen.first_note(None) == ("", 0)
