"""Each kind of reward on replies whose value is plain to see, and keys that cannot be used."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.attempts import attempt, replied
from tests.house.source import ROOT

from tunesmith.errors import DataError, InputError, RecipeError, RunError
from tunesmith.rollouts import kinds, sandboxed
from tunesmith.rollouts.rewards import make_reward
from tunesmith.types import Attempt

ADD = "def add(a, b):\n    return a + b\n"
CASES: list[tuple[dict[str, Any], Attempt, float]] = [
    ({"kind": "exact"}, attempt(" 42\n"), 1),
    ({"kind": "exact"}, attempt("it is 42"), 0),
    ({"kind": "exact"}, attempt("yes", answer="Yes"), 0),
    ({"kind": "exact", "ignore_case": True}, attempt("yes", answer="Yes"), 1),
    ({"kind": "exact", "reference": "b"}, attempt("2", a="1", b="2"), 1),
    ({"kind": "exact"}, attempt("1", other="2", reference="1"), 1),
    ({"kind": "exact"}, replied("yes", "yes"), 1),
    ({"kind": "numeric"}, attempt("first 7, then $42.00"), 1),
    ({"kind": "numeric"}, attempt("41"), 0),
    ({"kind": "numeric"}, attempt("none"), 0),
    ({"kind": "numeric", "tolerance": 0.05}, attempt("41"), 1),
    ({"kind": "numeric"}, attempt("42", answer=42), 1),
    ({"kind": "regex", "pattern": r"^<think>.*</think>", "whole": False}, attempt("<think>a</think> b"), 1),
    ({"kind": "regex", "pattern": "a", "whole": True}, attempt("ab"), 0),
    ({"kind": "json_schema", "schema": {"type": "object", "required": ["a"]}}, attempt('{"a": 1}'), 1),
    ({"kind": "json_schema", "schema": {"type": "object", "required": ["a"]}}, attempt('{"b": 1}'), 0),
    ({"kind": "json_schema", "schema": {"type": "object"}}, attempt("no"), 0),
    ({"kind": "similarity", "by": "rouge_1"}, replied("the cat", "the dog"), 0.5),
    ({"kind": "similarity", "by": "fuzzy_match"}, replied("abcd", "abce"), 0.75),
    ({"kind": "similarity", "by": "gleu"}, replied("a b", "a c"), 1 / 3),  # of 2 words 1, of 1 bigram 0
    ({"kind": "similarity", "by": "bleu"}, replied("a b c d e", "a b c d e"), 1),
    ({"kind": "similarity", "by": "chrf"}, replied("abc", "abc"), 1),
    ({"kind": "length", "most": 10, "buffer": 5}, attempt("x", num_tokens=8), -0.6),
    ({"kind": "length", "most": 2, "buffer": 1, "unit": "words"}, attempt("a b c"), -1),
    ({"kind": "length", "most": 5, "buffer": 4, "unit": "chars"}, attempt("abc"), -0.5),
    ({"kind": "tests"}, attempt(f"Here:\n```python\n{ADD}```", tests="assert add(1, 2) == 3"), 1),
    ({"kind": "tests", "tests": "checks"}, attempt(ADD, checks=["assert add(1, 2) == 4"]), 0),
]


@pytest.mark.parametrize(("keys", "given", "value"), CASES)
def test_a_kind_gives(keys: dict[str, Any], given: Attempt, value: float) -> None:
    [grade] = make_reward([keys])([given])
    assert grade.value == pytest.approx(value)
    assert grade.is_graded


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "nothing to grade"),
        ({"kind": "exact"}, "a list of parts"),
        ([{"kind": "exakt"}], "Did you mean exact"),
        (["exact"], "wanted one of"),
        ([{"kind": "exact", "refrence": "a"}], r"reward\[0\].refrence.*Did you mean reference"),
        ([{"kind": "exact", "weight": "much"}], r"reward\[0\].weight is 'much'"),
        ([{"kind": "exact", "weight": 0}], "leave it out"),
        ([{"kind": "exact", "weight": float("nan")}], "weight is nan"),
        ([{"kind": "regex"}], "pattern is missing"),
        ([{"kind": "regex", "pattern": "("}], "is none"),
        ([{"kind": "exact"}, {"kind": "exact"}], "a name of its own"),
        ([{"kind": "exact", "clip": [1, 0]}], "the least first"),
        ([{"kind": "exact", "clip": [1, 2]}], "leaves nothing"),
        ([{"kind": "length", "most": 0, "buffer": 1}], "above 0"),
        ([{"kind": "numeric", "tolerance": -0.1}], "tolerance is -0.1"),
        ([{"kind": "numeric", "tolerance": float("nan")}], "tolerance is nan"),
        ([{"kind": "expression", "expression": "num_words", "clip": [0, float("inf")]}], "has no end"),
        ([{"kind": "length", "most": 2, "buffer": 3}], "more than"),
        ([{"kind": "sum", "parts": []}], "is empty"),
        ([{"kind": "sum", "parts": [{"kind": "exact", "x": 1}]}], r"reward\[0\].parts\[0\].x"),
        ([{"kind": "similarity", "by": "meteor"}], "by is 'meteor'"),
        ([{"kind": "python", "file": "gone.py:score"}], "there is no file"),
        ([{"kind": "json_schema", "schema": "gone.json"}], "could not be read"),
        ([{"kind": "regex", "pattern": "a{99999999999999999999}"}], "is none"),
        ([{"kind": "expression", "expression": "import os"}], "cannot be used"),
    ],
)
def test_wrong_keys_are_named(parts: Any, words: str) -> None:
    with pytest.raises((RecipeError, InputError), match=words):
        make_reward(parts)


@pytest.mark.parametrize(
    ("keys", "given", "words"),
    [
        ({"kind": "exact"}, attempt("x", a="1", b="2"), r"rows.jsonl:1.*facts a, b; say which"),
        ({"kind": "exact", "reference": "c"}, attempt("x", a="1"), "no fact 'c'"),
        ({"kind": "numeric"}, attempt("x", answer="none"), "holds no number"),
        ({"kind": "tests"}, attempt("x"), "no tests"),
        ({"kind": "tests"}, attempt("x", tests="assert ("), "no Python"),
        ({"kind": "expression", "expression": "level"}, attempt("x"), "reads 'level'"),
    ],
)
def test_a_row_that_lacks_what_is_needed_is_an_error(keys: dict[str, Any], given: Attempt, words: str) -> None:
    with pytest.raises((DataError, RecipeError), match=words):
        make_reward([keys])([given])


def test_a_schema_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "five.json").write_text("5")
    with pytest.raises(InputError, match="is 5; wanted an object"):
        make_reward([{"kind": "json_schema", "schema": str(tmp_path / "five.json")}])


def undocumented(page: str) -> list[str]:
    """Kinds without a row in the page's table, and keys that their row does not name."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", page.split("## Kinds")[1].split("\n## ")[0], re.M))
    shared = {field.name for field in fields(kinds.Common)}
    return [
        f"{kind}.{field.name}"
        for kind, options in kinds.KINDS.items()
        for field in fields(options)
        if f"`{field.name}`" not in rows.get(kind, "") and field.name not in shared
    ]


def test_every_kind_and_key_stands_in_the_page() -> None:
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert undocumented(page) == []
    assert undocumented(page.replace("`side_by_side`", "")) == ["judge.side_by_side"]


# -- a function of the user's own -----------------------------------------------------------------------------------


def written(folder: Path, text: str, function: str = "score", **keys: Any) -> list[dict[str, Any]]:
    path = folder / "mine.py"
    path.write_text(text)
    return [{"kind": "python", "file": f"{path}:{function}", **keys}]


def test_an_own_function_is_told_of_facts_and_prompt(tmp_path: Path) -> None:
    text = (
        "RANGE = (-1, 9)\ndef score(output, facts, prompt):\n    return len(output) + len(facts) + len(prompt)\n"
        "def two(output, facts):\n    return float(facts['answer'] == 42)\ndef one(output):\n    return -1\n"
        "def text(output, reference):\n    return reference == 'yes'\n"
    )
    for function, given, value in (
        ("score", attempt("abc", prompt="xy", a=1, b=[2]), 7), ("two", attempt("x", answer=42), 1),
        ("one", attempt("x"), -1), ("text", replied("x", "yes"), 1),
    ):  # fmt: skip
        reward = make_reward(written(tmp_path, text, function))
        assert (reward.low, reward.high) == (-1, 9)
        assert [g.value for g in reward([given])] == [value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def other(a):\n    return 1", "no function 'score'; it has: other"),
        ("import gone_module", "line 1.*into this one file"),
        ("x = open('/etc/passwd').read()", "cannot be run"),
        ("def score(:", "SyntaxError"),
        ("def score(a, b, c, d):\n    return 1", "must take"),
        ("RANGE = (1, 0)\ndef score(a):\n    return 1", "wanted the least and the most"),
        ("LESS_IS_BETTER = True\ndef score(a):\n    return 1", "a weight below 0"),
        ("import os\nos._exit(0)", "cannot be run: its process ended"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_reward(written(tmp_path, text))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 2", "returned 2; wanted a number from 0 to 1"),
        ("return float('nan')", "returned nan"),
        ("return 'good'", "wanted a number"),
        ("return facts['gone']", r"KeyError: 'gone' \(line 2\)"),
    ],
)
def test_an_own_function_that_fails_gives_the_least_and_says_why(tmp_path: Path, body: str, words: str) -> None:
    [grade] = make_reward(written(tmp_path, f"def score(output, facts):\n    {body}\n"))([attempt("x")])
    assert (grade.value, grade.is_graded) == (0, False)
    assert re.search(words, grade.why), grade.why


def test_a_grader_that_fails_every_time_raises(tmp_path: Path) -> None:
    text = "def score(output):\n    return 1 if output == 'good' else 1 / 0\n"
    reward = make_reward(written(tmp_path, text))
    most = sandboxed.Streak.MOST
    reward([attempt("bad")] * (most - 1))
    assert reward([attempt("good")])[0].value == 1, "one that is graded ends the row"
    reward([attempt("bad")] * (most - 1))
    with pytest.raises(RunError, match=rf"{most} replies in a row.*ZeroDivisionError.*tunesmith grade"):
        reward([attempt("bad")])


def test_facts_of_any_kind_cross(tmp_path: Path) -> None:
    from datetime import date

    text = "import json\ndef score(output, facts):\n    return len(json.dumps(facts)) > 9\n"
    given = attempt("\ud800 \x00 ünï", when=date(2020, 1, 2), deep={"a": [1, None, {"b": True}]})
    assert make_reward(written(tmp_path, text))([given])[0].value == 1
    [long] = make_reward(written(tmp_path, text))([attempt("x" * 2**21)])
    assert "more than" in long.why
    assert json.dumps(long.value) == "0.0"
