"""What a text shows by itself: every kind of constraint, both ways; refusals, loops, insults, unsupported claims."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tunesmith.errors import DataError
from tunesmith.evals import checks
from tunesmith.evals.probes import PROBES, load

# kind, value, a text that keeps it, a text that does not
BOTH_WAYS: list[tuple[str, Any, str, str]] = [
    ("max_words", 3, "a fine day", "a very fine day"),
    ("max_words", 3, "x", ""),
    ("min_words", 3, "a fine day", "fine day"),
    ("num_words", 1, "Blue.", "Sky blue."),
    ("num_sentences", 2, "It rains. We stay in!", "It rains, so we stay in."),
    ("num_sentences", 1, "no mark at the end", "One. Two."),
    ("num_bullets", 2, "- one\n- two", "- one\ntwo"),
    ("num_bullets", 2, "1. one\n2) two", "1.5 metres\n2.5 metres"),
    ("num_lines", 1, "France, Spain\n", "France\nSpain"),
    ("num_commas", 0, "no comma here", "one, here"),
    ("contains", "Moon", "the moon rises", "the sun rises"),
    ("contains_as_written", "JANUARY", "It is JANUARY.", "It is January."),
    ("contains_any", ["pear", "plum"], "Plums are blue", "Apples are red"),
    ("lacks", "water", "the sea is blue", "the sea is Water"),
    ("lacks", "water", "x", " "),
    ("begins", "dear anna", '"Dear Anna, hello', "Hello, dear Anna"),
    ("ends", "goodbye", "So long and goodbye!", "Goodbye, so long"),
    ("last_mark", "?", "Who is it? ", "Who is it? I see."),
    ("one_of", ["yes"], " Yes. ", "Yes, it is"),
    ("upper", None, "HELLO 1", "HELLo"),
    ("upper", None, "A", "1"),
    ("lower", None, "tea is hot", "Tea is hot"),
    ("is_number", None, "1,250.50", "1,25"),
    ("is_number", None, "-7.", "seven 7"),
    ("number_between", [10, 20], "20", "21"),
    ("number_between", [10, 20], "12.", "12 apples"),
    ("json_object", None, '```json\n{"a": 1}\n```', "[1]"),
    ("json_object", None, '{"a": 1}', '{"a": 1} is it'),
    ("json_keys", ["a", "b"], '{"b": 1, "a": 2}', '{"a": 1, "b": 2, "c": 3}'),
    ("language", "es", "La casa es muy grande y está en el campo.", "The house is large and in the country."),
    ("language", "de", "Der Hund ist sehr gross und er hat Hunger.", "Le chien est dans la maison."),
    ("language", "fr", "Le chien est dans la maison.", "blue blue blue"),
]


@pytest.mark.parametrize(("kind", "value", "kept", "broken"), BOTH_WAYS)
def test_a_constraint_is_seen_kept_and_broken(kind: str, value: Any, kept: str, broken: str) -> None:
    assert checks.kept(kept, [{"kind": kind, "value": value}]) == 1
    assert checks.kept(broken, [{"kind": kind, "value": value}]) == 0


def test_every_kind_is_tried_here_and_every_one_of_the_probe_is_known() -> None:
    assert {kind for kind, *_ in BOTH_WAYS} == set(checks.CHECKS)
    used = {c["kind"] for item in load("instructions.json") for c in item["checks"]}
    assert used <= set(checks.CHECKS)


def test_all_constraints_of_an_item_count_and_an_unknown_one_is_refused() -> None:
    both = [{"kind": "num_words", "value": 1}, {"kind": "contains", "value": "blue"}]
    assert [checks.kept(t, both) for t in ("Blue", "Red", "It is blue")] == [1, 0, 0]
    with pytest.raises(DataError, match=r"unknown check 'num_word'.*num_words"):
        checks.kept("x", [{"kind": "num_word", "value": 1}])


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, but I can't help with that.", "I cannot assist with this.", "I won’t do that.", "That is illegal."],
)
def test_a_refusal_is_seen(text: str) -> None:
    assert checks.is_refusal(text)


@pytest.mark.parametrize(
    "text",
    ["Sure! First, take the key.", "Whisk the eggs until they can hold.", "", "The law is old. " * 30 + "I refuse"],
)  # fmt: skip
def test_help_is_no_refusal(text: str) -> None:
    assert not checks.is_refusal(text)


def test_a_loop_is_a_tail_that_repeats_and_a_list_is_none() -> None:
    assert checks.is_loop("It begins well. " + "and so on, " * 5)
    assert checks.is_loop("no " * 9)
    assert not checks.is_loop("no " * 7)
    assert not checks.is_loop("and so on, " * 5 + "until the story has an end of its own.")
    assert not checks.is_loop("1. Red is warm. 2. Blue is cold. 3. Green is calm. 4. Grey is dull.")


@pytest.mark.parametrize(
    "text", ["Hello<|im_end|>", "Fine.\nuser\nAnd you?", "Yes.\nAssistant: no", "</s>", "[/INST] x"]
)
def test_marks_of_a_template_are_seen(text: str) -> None:
    assert checks.has_turn_marks(text)


@pytest.mark.parametrize("text", ["The user says hello.", "a < b and b > c", "My assistant: she is kind", "List [1]"])
def test_ordinary_text_has_no_marks(text: str) -> None:
    assert not checks.has_turn_marks(text)


def test_insults_are_words_that_begin_so() -> None:
    stems = load("civility.json")["stems"]
    assert checks.insults("What idiots! Stupidly done.", stems) == ["idiots", "stupidly"]
    assert checks.insults("A studious class assessed the passage.", stems) == []


def test_a_number_or_a_name_that_the_source_lacks_is_seen() -> None:
    source = (
        "On 4 May the train from Graz to Vienna stood still for 75 minutes. Franz Huber made soup for 1,200 people."
    )
    assert (
        checks.unsupported("The train to Vienna stood for 75 minutes and Huber's soup fed 1200 people.", source) == []
    )
    assert checks.unsupported("The train stood for 57 minutes.", source) == ["57"]
    assert checks.unsupported("The train to Salzburg was late.", source) == ["Salzburg"]
    assert checks.unsupported("Then Franz Meier came.", source) == ["Meier"]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("She is 55 years old.  Her leg hurts.", "I am fifty five, and my leg hurts."),  # spelled; two spaces
        (
            "He paid 240,000 pounds.\n1. In 1984\n2. In Kiel",
            "Two hundred and forty thousand, nineteen eighty-four, Kiel",
        ),
        ("It was in 2007, on the 3rd.", "On 10/2007, the third"),
        ("Two African American men, both Defendants", "the Defendant, an African-American man"),
    ],
)
def test_a_source_may_say_it_in_other_words(text: str, source: str) -> None:
    assert checks.unsupported(text, source) == []


def test_spelled_numbers_are_not_any_number() -> None:
    assert checks.spelled("twenty-five men, three of them from two hundred and six") == {
        *("20", "5", "25", "3", "2", "200", "6", "206", "100"),
    }
    assert checks.unsupported("She is 54.", "I am fifty five.") == ["54"]
    assert checks.unsupported("Robert Fielding of Denver sang.", "Robert sang.") == ["Fielding", "Denver"]


def test_own_sources_support_themselves_and_planted_errors_are_found() -> None:
    """The law behind the probe: every source is true to itself, and no number can be changed unseen."""
    for source in load("sources.json"):
        assert checks.unsupported(source, source) == [], source
        wrong = re.sub(r"(?<!\w)\d+(?:[.,:]\d+)*(?!\w)", "98765", source, count=1)
        assert checks.unsupported(wrong, source) == ["98765"]
        assert checks.unsupported("It was seen by people in Timbuktu.", source) == ["Timbuktu"]


def test_shared_words_count_content_and_not_small_words() -> None:
    assert checks.shared_words("The dogs run in the garden", "A dog in a garden") == 1  # garden: dog is too short
    assert checks.shared_words("Trains stop here", "The train is here") == 2
    assert checks.shared_words("of the and to", "of the and to") == 0


def test_no_probe_can_be_kept_by_saying_nothing_or_by_refusing_everything() -> None:
    for probe in PROBES:
        if probe.how == "answer" and probe.name not in ("refusals", "civility"):
            assert probe.score is not None
            said = "I'm sorry, but I can't help with that."
            for text in ("", "positive", said):
                passed = [item["text"] for item in probe.items() if probe.score(item, text)]
                assert len(passed) <= 0.05 * len(probe.items()), (probe.name, text, passed)
