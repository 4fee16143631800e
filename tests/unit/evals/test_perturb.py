"""Changed prompts: how much is changed, what stays, and that the same seed changes the same."""

from __future__ import annotations

import dataclasses

import pytest

from tunesmith.evals.perturb import ASIDES, FULL, QUICK, Change, applies, changed, instruction_of
from tunesmith.types import Example, Label, Message, Reply

TEXT = "Hello, the parcel with order 4711 has not come; could you please tell me where it is and when it will arrive?"


def example(answer: str = "later", text: str = TEXT, name: str = "a") -> Example:
    turns = (Message("user", "first"), Message("assistant", "yes"), Message("user", text))
    return Example(name, turns, Reply(Message("assistant", answer)))


def last(change: Change, seed: int = 0, **said: str) -> str:
    return changed(example(**said), change, seed).prompt[-1].content


@pytest.mark.parametrize("frac", [0.05, 0.1])
def test_case_changes_as_many_letters_as_said_and_nothing_else(frac: float) -> None:
    found = last(Change("case", frac))
    letters = sum(c.isalpha() for c in TEXT)
    assert found.lower() == TEXT.lower()
    assert sum(a != b for a, b in zip(found, TEXT)) == round(frac * letters)


@pytest.mark.parametrize("name", ["typos", "case", "punctuation"])
def test_digits_and_the_number_of_words_stay(name: str) -> None:
    for seed in range(20):
        found = last(Change(name, 0.1), seed)
        assert found != TEXT
        assert "4711" in found
        assert len(found.split()) == len(TEXT.split())


def test_punctuation_touches_ends_of_words_only() -> None:
    found = last(Change("punctuation", 0.1)).split()
    assert [w.rstrip(",.!?;:") for w in found] == [w.rstrip(",.!?;:") for w in TEXT.split()]
    assert sum(a != b for a, b in zip(found, TEXT.split())) == round(0.1 * len(TEXT.split()))


@pytest.mark.parametrize("change", [c for c in FULL if c.name in ("typos", "case", "punctuation")])
def test_words_of_the_reference_stay_as_they_are(change: Change) -> None:
    """Else the right answer to "give the product as written" would be another one."""
    for seed in range(20):
        assert "where" in last(change, seed, answer='{"product": "WHERE"}').split()
    assert any("where" not in last(Change("typos", 0.1), seed).split() for seed in range(20))  # not protected here


def test_a_text_all_of_whose_words_are_in_the_answer_is_left_alone() -> None:
    for change in QUICK[:3]:
        assert last(change, text="one two", answer="one two") == "one two"


def test_the_rest_of_the_example_stays_and_a_distractor_is_one_sentence_more() -> None:
    one = example()
    other = changed(one, Change("distractor", 0.05), 0)
    assert dataclasses.replace(other, prompt=one.prompt) == one
    assert other.prompt[:2] == one.prompt[:2]
    assert other.prompt[2].content.replace(TEXT, "").strip() in ASIDES


@pytest.mark.parametrize("frac", [0.05, 0.1])
def test_distractors_make_up_the_said_share_and_the_text_stays_between_them(frac: float) -> None:
    """In a long text one sentence would be nothing; a mutant that adds one alone fails here."""
    text = " ".join(f"Sentence {k} says a little about order 4711, and no more." for k in range(40))
    found = last(Change("distractor", frac), text=text)
    added = len(found.split()) - len(text.split())
    longest = max(len(a.split()) for a in ASIDES)
    assert frac * len(text.split()) <= added < frac * len(text.split()) + longest
    for aside in ASIDES:
        found = found.replace(f"{aside} ", "").replace(f" {aside}", "")
    assert found == text
    assert {c.frac for c in FULL if c.name == "distractor"} == {0.05, 0.1}


def test_the_same_seed_changes_the_same_and_another_seed_or_case_something_else() -> None:
    change = Change("typos", 0.1)
    assert last(change) == last(change)
    assert last(change) != last(change, 1)
    assert last(change) != last(change, name="b")
    assert last(change) != last(Change("typos", 0.05))


def test_the_instruction_in_other_words_holds_the_whole_instruction() -> None:
    said = instruction_of("Answer {x} in French.", Change("wording"), (), 0)
    assert "Answer {x} in French." in said
    assert said != "Answer {x} in French."


def test_labels_the_other_way_round_where_the_instruction_lists_them() -> None:
    labels = ("a", "b", "c")
    assert instruction_of("One of: a, b, c.", Change("order"), labels, 0) == "One of: c, b, a."
    assert not applies(Change("order"), "Say a label.", labels, 0)
    assert not applies(Change("wording"), "", labels, 0)
    assert applies(Change("typos", 0.1), "", (), 0)


def test_a_label_task_is_changed_too() -> None:
    one = Example("a", (Message("user", TEXT),), Label("delivery"))
    assert changed(one, Change("typos", 0.1), 0).target == one.target
