"""Changed prompts: how much is changed, what stays, and that the same seed changes the same."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from tunesmith.evals.perturb import (
    ASIDES,
    FULL,
    QUICK,
    Change,
    applies,
    changed,
    form_of,
    instruction_of,
    sections_turned,
)  # fmt: skip
from tunesmith.evals.reword import NUM_WAYS
from tunesmith.evals.tasks import Form
from tunesmith.types import Example, Label, Message, Reply

TEXT = "Hello, the parcel with order 4711 has not come; could you please tell me where it is and when it will arrive?"


def example(answer: str = "later", text: str = TEXT, name: str = "a") -> Example:
    turns = (Message("user", "first"), Message("assistant", "yes"), Message("user", text))
    return Example(name, turns, Reply(Message("assistant", answer)))


def last(change: Change, seed: int = 0, **said: str) -> str:
    return changed(example(**said), change, (), seed).prompt[-1].content


@pytest.mark.parametrize("frac", [0.05, 0.1])
def test_case_changes_as_many_letters_as_said_and_nothing_else(frac: float) -> None:
    found = last(Change("case", frac))
    letters = sum(c.isalpha() for c in TEXT)
    assert found.lower() == TEXT.lower()
    assert sum(a != b for a, b in zip(found, TEXT)) == round(frac * letters)


def test_a_doubled_letter_is_never_swapped_with_itself() -> None:
    """That would be a slip that nobody sees."""
    assert all(last(Change("typos", 0.01), seed, text="oo") != "oo" for seed in range(40))


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
    other = changed(one, Change("distractor", 0.05), (), 0)
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


INSTRUCTION = "Classify the text. Answer with exactly one of these labels: text, answer with, late."
LABELS = ("text", "answer with", "late")


def wordings(instruction: str, labels: tuple[str, ...] = ()) -> list[str]:
    return [instruction_of(instruction, Change("wording"), labels, 0, f"{k}") for k in range(200)]


def test_the_instruction_is_another_sentence_of_other_words_and_cases_share_a_few_of_them() -> None:
    """The mutant of before, a phrase put to it, would hold the whole instruction."""
    said = wordings(INSTRUCTION, LABELS)
    assert len(set(said)) == NUM_WAYS
    assert min(said.count(way) for way in set(said)) > 20
    for way in set(said):
        assert INSTRUCTION not in way
        assert not way.startswith("Classify")
        shared = set(INSTRUCTION.split()) & set(way.split())
        assert len(shared) < 0.7 * len(INSTRUCTION.split()), way
    assert said == wordings(INSTRUCTION, LABELS)


def test_labels_and_what_stands_in_quotes_or_braces_is_never_reworded() -> None:
    assert all(way.endswith(": text, answer with, late.") for way in wordings(INSTRUCTION, LABELS))
    assert not all(way.endswith(": text, answer with, late.") for way in wordings(INSTRUCTION))  # the mutant without
    for way in wordings('Extract the "short text" as {the text}, please.'):
        assert '"short text"' in way
        assert "{the text}" in way


def test_a_sentence_that_tells_becomes_a_question_a_wish_or_a_task_and_a_colon_stays() -> None:
    assert {way[-1] for way in set(wordings("Answer the question."))} == {".", "?"}
    assert all(way.endswith(":") for way in wordings("Translate English to Pidgin:"))


def test_an_instruction_in_an_unknown_language_stays_whole_between_other_words() -> None:
    said = set(wordings("Fasse {x} zusammen."))
    assert len(said) == NUM_WAYS
    assert all("Fasse {x} zusammen." in way and way != "Fasse {x} zusammen." for way in said)


def test_a_system_message_of_the_row_is_reworded_and_put_behind_like_an_instruction() -> None:
    own = Example("a", (Message("system", "You are a judge."), Message("user", "Is it?")), Reply(Message("a", "no")))
    assert applies(Change("wording"), [own], "", (), 0)
    said = changed(own, Change("wording"), (), 0).prompt
    assert said[0].content != "You are a judge."
    assert said[1:] == own.prompt[1:]
    form = form_of(Form("plain", "none"), Change("order"))
    assert form.prompt(own, "") == (Message("user", "Is it?\n\nYou are a judge."),)


@pytest.mark.parametrize("place", ["system", "user", "last"])
def test_without_a_turn_of_a_user_the_instruction_is_no_less_said(place: Literal["system", "user", "last"]) -> None:
    begun = Message("assistant", "Dear")
    row = Example("a", (begun,), Reply(Message("assistant", "Anna")))
    assert Form("a", place).prompt(row, "Write a letter.") == (Message("system", "Write a letter."), begun)
    own = dataclasses.replace(row, prompt=(Message("system", "You are a clerk."), begun))
    assert Form("a", place).prompt(own, "Write a letter.") == own.prompt


def test_by_order_the_instruction_stands_behind_the_examples_and_the_input() -> None:
    shot = example("late")
    form = form_of(Form("some", "system", (shot,)), Change("order"))
    turns = form.prompt(example(), "One of: a, b.")
    assert [m.role for m in turns] == ["user", "assistant", "user", "assistant", "user", "assistant", "user"]
    assert turns[-1].content == f"{TEXT}\n\nOne of: a, b."
    assert not any("One of" in m.content for m in turns[:-1])
    assert form_of(form, Change("wording")) == form


def test_labels_and_named_parts_of_a_prompt_the_other_way_round() -> None:
    labels = ("a", "b", "c")
    assert instruction_of("One of: a, b, c.", Change("order"), labels, 0, "x") == "One of: c, b, a."
    assert sections_turned("Context: it rains.\n\nQuestion: is it wet?") == "Question: is it wet?\n\nContext: it rains."
    assert sections_turned("It rains.\n\nQuestion: is it wet?") == "It rains.\n\nQuestion: is it wet?"


def test_what_changes_nothing_is_not_asked() -> None:
    assert not applies(Change("order"), [example()], "", (), 0)
    assert not applies(Change("wording"), [example()], "", (), 0)
    assert applies(Change("order"), [example(text="A: x\n\nB: y")], "", (), 0)
    assert applies(Change("wording"), [example()], "Say a label.", (), 0)
    assert applies(Change("typos", 0.1), [example()], "", (), 0)


def test_a_label_task_is_changed_too() -> None:
    one = Example("a", (Message("user", TEXT),), Label("delivery"))
    assert changed(one, Change("typos", 0.1), ("delivery",), 0).target == one.target
