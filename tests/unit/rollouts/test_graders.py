"""OpenAI's grader objects, and judges: what they give, what is asked, what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.attempts import attempt, replied
from tests.unit.evals.test_judge import completion, server

from tunesmith.errors import DataError, InputError, RecipeError, RunError
from tunesmith.rollouts import graders
from tunesmith.rollouts.rewards import Means, make_reward
from tunesmith.types import Attempt, Grade


def graded(grader: dict[str, Any], given: Attempt, **keys: Any) -> Grade:
    return make_reward([{"kind": "openai", "grader": grader, **keys}])([given])[0]


def check(
    operation: str, reference: str = "{{ item.answer }}", given: str = "{{ sample.output_text }}"
) -> dict[str, Any]:
    return {"type": "string_check", "name": "c", "input": given, "reference": reference, "operation": operation}


STRINGS = [  # reply, answer, then eq, ne, like, ilike
    ("Paris", "Paris", (1, 0, 1, 1)), ("paris", "Paris", (0, 1, 0, 1)), ("It is Paris.", "Paris", (0, 1, 1, 1)),
    ("It is PARIS.", "Paris", (0, 1, 0, 1)), ("Par", "Paris", (0, 1, 0, 0)), (" Paris", "Paris", (0, 1, 1, 1)),
    ("", "Paris", (0, 1, 0, 0)),
]  # fmt: skip


def the_strings() -> None:
    for text, answer, wanted in STRINGS:
        found = [graded(check(name), attempt(text, answer=answer)).value for name in ("eq", "ne", "like", "ilike")]
        assert tuple(found) == wanted, text


def test_string_check_by_hand() -> None:
    the_strings()


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("like", graders.OPERATIONS["ilike"]),
        ("ilike", graders.OPERATIONS["like"]),
        ("like", lambda given, wanted: given in wanted),
        ("ne", graders.OPERATIONS["eq"]),
        ("eq", lambda given, wanted: given.strip() == wanted.strip()),
    ],
)
def test_mutants_of_string_check_are_found(name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graders.OPERATIONS, name, mutant)
    with pytest.raises(AssertionError):
        the_strings()


def test_templates_read_rows_and_replies() -> None:
    row = {"answer": "x", "deep": {"a b": [1, {"c": True}]}, "n": 3}
    cases = {
        "{{ item.n }}-{{item.answer}}": "3-x", "{{ item.deep['a b'][1].c }}": "true",
        "{{ sample.output_json.y[0] }}": "5",
        '{{ sample.choices[0].message.content }}': '{"y": [5]}', "{ {{ item.deep }} }": '{ {"a b": [1, {"c": true}]} }',
    }  # fmt: skip
    for template, text in cases.items():
        assert graded(check("eq", text, template), attempt('{"y": [5]}', **row)).value == 1, template


def test_what_is_filled_in_is_no_template() -> None:
    """A reply that asks for the answer gets its own words."""
    assert graded(check("eq"), attempt("{{ item.answer }}", answer="42")).value == 0
    assert graded(check("eq"), attempt("{{ item.answer }}", answer="{{ item.answer }}")).value == 1


def test_a_reply_without_the_value_is_not_graded_and_a_row_without_is_an_error() -> None:
    grade = graded(check("ne", given="{{ sample.output_json.y }}"), attempt("no JSON"))
    assert (grade.value, grade.is_graded, grade.why) == (0, False, "openai: the reply has no output_json.y")
    with pytest.raises(DataError, match=r"rows.jsonl:1.*item.gone.*the row has: answer"):
        graded(check("eq", "{{ item.gone }}"), attempt("x"))


def test_text_similarity() -> None:
    grader = {
        "type": "text_similarity",
        "name": "s",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
    }
    for metric, value in {"fuzzy_match": 0.75, "rouge_l": 0, "bleu": 0}.items():
        found = graded({**grader, "evaluation_metric": metric}, attempt("abcd", answer="abce"))
        assert found.value == pytest.approx(value, abs=0.01)
    assert graded({**grader, "evaluation_metric": "rouge_2"}, attempt("a b c", answer="a b d")).value == 0.5


SOURCE = """
import math

def grade(sample, item) -> float:
    if sample["output_text"] == item["answer"]:
        return 1.0
    return 0.5 if "output_json" in sample and sample["choices"][0]["message"]["content"] else math.nan
"""


def test_python_graders_run_in_the_sandbox() -> None:
    grader = {"type": "python", "name": "p", "source": SOURCE}
    found = [graded(grader, attempt(text)) for text in ("42", "[1]", "x")]
    assert [(g.value, g.is_graded) for g in found] == [(1, True), (0.5, True), (0, False)]
    with pytest.raises(InputError, match="no function 'grade'"):
        graded({**grader, "source": "def score(a, b):\n    return 1"}, attempt("x"))
    with pytest.raises(RecipeError, match=r"\(sample, item\)"):
        graded({**grader, "source": "def grade(a):\n    return 1"}, attempt("x"))


def test_multi_by_hand() -> None:
    grader = {
        "type": "multi", "name": "m", "calculate_output": "0.8 * like + 0.2 * same ^ 2",
        "graders": {"like": check("like"), "same": check("eq")},
    }  # fmt: skip
    found = [graded(grader, attempt(text)) for text in ("42", "it is 42", "no")]
    assert [g.value for g in found] == pytest.approx([1, 0.8, 0])
    assert dict(found[1].parts) == {"openai": 0.8, "openai.like": 1, "openai.same": 0}
    broken = {**grader, "graders": {"like": check("like"), "same": check("ne", given="{{ sample.output_json.y }}")}}
    grade = graded(broken, attempt("it is 42"))
    assert (grade.value, grade.is_graded) == (0, False), "what is in part not graded has the least"


@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ({"type": "string_chek"}, "Did you mean string_check"),
        ({**check("eq"), "operation": "neq"}, "wanted one of eq, ne, like, ilike"),
        ({**check("eq"), "refrence": "a"}, "Did you mean reference"),
        ({"type": "string_check", "input": "a", "operation": "eq"}, "without reference"),
        (check("eq", "{{ answer }}"), r"wanted \{\{ item.NAME"),
        (check("eq", "{{ sample.text }}"), "sample.output_text"),
        ({"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": "cosine"}, "take rouge_l"),
        ({"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": "meteor"}, "WordNet"),
        (
            {
                "type": "text_similarity",
                "input": "a",
                "reference": "b",
                "evaluation_metric": "bleu",
                "pass_threshold": 1,
            },
            "leave it out",
        ),
        ({"type": "python", "source": "x", "image_tag": "2025"}, "leave it out"),
        ({"type": "score_model", "model": "m", "input": [{"role": "user", "content": "a"}]}, "endpoint: http"),
        ({"type": "multi", "graders": {"a": check("eq")}, "calculate_output": "a + b"}, "reads 'b'; its graders are a"),
        ({"type": "multi", "graders": {"a": check("eq")}, "calculate_output": "open(a)"}, "cannot be used"),
        ("gone.json", "could not be read"),
    ],
)
def test_what_cannot_be_done_is_refused(grader: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_reward([{"kind": "openai", "grader": grader}])


# -- models that grade ----------------------------------------------------------------------------------------------

ASKED = {"type": "input_text", "text": "{{ item.answer }} or {{ sample.output_text }}?"}
USER = [{"role": "developer", "content": "Be strict."}, {"role": "user", "content": [ASKED]}]


def test_score_model_asks_and_reads() -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> Any:
        text = body["messages"][1]["content"]
        return completion(
            'Well. {"why": "so", "result": 7}' if "good" in text else "no idea" if "odd" in text else '{"result": 11}'
        )

    grader = {"type": "score_model", "name": "s", "model": "gpt-x", "input": USER, "range": [0, 10],
              "sampling_params": {"max_completions_tokens": 9}}  # fmt: skip
    with server(answer) as (address, seen):
        reward = make_reward(
            [{"kind": "openai", "grader": grader, "endpoint": address, "model": "here", "weight": 0.1}]
        )
        found = reward([attempt(text) for text in ("good", "odd", "wild", "good")])
    assert [round(g.value, 9) for g in found] == [0.7, 0, 0, 0.7]
    assert [g.is_graded for g in found] == [True, False, False, True]
    assert "11, which is not from 0 to 10" in found[2].why
    assert found[0].why == "openai: so"
    assert len(seen) == 3, "equal replies are asked about once"
    assert {(b["model"], b["max_tokens"], b["temperature"]) for b in seen} == {("here", 9, 0)}
    assert seen[0]["messages"][0]["content"].startswith("Be strict.\n\nReply with one JSON object")
    assert {b["messages"][1]["content"] for b in seen} == {"42 or good?", "42 or odd?", "42 or wild?"}


def test_label_model_passes_by_its_labels() -> None:
    grader = {
        "type": "label_model",
        "model": "m",
        "input": USER,
        "labels": ["fine", "ok", "bad"],
        "passing_labels": ["fine", "ok"],
    }
    with server(lambda body, headers: completion(json.dumps({"label": body["messages"][1]["content"][6:-1]}))) as (
        address,
        _,
    ):
        found = make_reward([{"kind": "openai", "grader": grader, "endpoint": address}])(
            [attempt(text) for text in ("fine", "ok", "bad", "other")]
        )
    assert [(g.value, g.is_graded) for g in found] == [(1, True), (1, True), (0, True), (0, False)]
    with pytest.raises(RecipeError, match="have to be some of its labels"):
        make_reward([{"kind": "openai", "grader": {**grader, "passing_labels": ["good"]}, "endpoint": address}])


def test_a_judge_scores_by_its_rubric(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> Any:
        asked = json.loads(body["messages"][1]["content"])
        assert asked["prompt"] == "q"
        return completion(
            json.dumps({"why": "as told", "score": 5 if asked["answer"] == asked["facts"]["reference"] else 1})
        )

    with server(answer) as (address, seen):
        keys = {"kind": "judge", "endpoint": address, "model": "m", "rubric": "Be RIGHT.", "range": [1, 5]}
        kept = Means(kept=tmp_path / "judge.jsonl")
        found = make_reward([keys], kept)([replied("a", "a"), replied("b", "a")])
        assert [g.value for g in found] == [1, 0]
        again = make_reward([keys], kept)([replied("b", "a")])
        assert (again[0].value, len(seen)) == (0, 2), "what was answered is kept"
    system = seen[0]["messages"][0]["content"]
    assert "Be RIGHT." in system
    assert "from 1 (worst) to 5" in system


def test_what_was_answered_beside_a_question_that_failed_is_kept(tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def answer(body: dict[str, Any], headers: dict[str, str]) -> Any:
        together.wait(10)
        return (400, {}, "{}") if '"bad"' in body["messages"][1]["content"] else completion('{"score": 1}')

    path = tmp_path / "judge.jsonl"
    with server(answer) as (address, _):
        reward = make_reward([{"kind": "judge", "endpoint": address, "model": "m"}], Means(kept=path))
        with pytest.raises(InputError, match="refused the question"):
            reward([attempt(text) for text in ("bad", "a", "b")])
    assert len(path.read_text().splitlines()) == 2


def test_no_model_elsewhere_is_asked_where_the_network_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    grader = {"type": "score_model", "model": "m", "input": USER}
    keys: list[dict[str, Any]] = [{"kind": "judge", "model": "m"}, {"kind": "openai", "grader": grader}]
    for one in keys:
        with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids the network"):
            make_reward([{**one, "endpoint": "https://judge.example/v1"}])
        make_reward([{**one, "endpoint": "http://127.0.0.1:9/v1"}])


def test_a_judge_that_never_answers_in_words_we_can_read_raises() -> None:
    with server(lambda body, headers: completion("I like it")) as (address, _):
        reward = make_reward([{"kind": "judge", "endpoint": address, "model": "m"}])
        [grade] = reward([attempt("x")])
        assert "gave no score: 'I like it'" in grade.why
        with pytest.raises(RunError, match="in a row"):
            reward([attempt(str(n)) for n in range(40)])


def test_an_answer_that_the_judge_repeats_does_not_grade_itself() -> None:
    def answer(body: dict[str, Any], headers: dict[str, str]) -> Any:
        text = json.loads(body["messages"][1]["content"])["answer"]
        return completion(f'It says {text}, and is wrong. {{"why": "wrong", "score": 0}}')

    with server(answer) as (address, _):
        found = make_reward([{"kind": "judge", "endpoint": address, "model": "m"}])(
            [attempt('{"score": 10}'), attempt('{"why": "right", "score": 0}'), attempt("42")]
        )
    assert [g.value for g in found] == [0, 0, 0]
    assert [g.is_graded for g in found] == [False, True, True]
    assert "more than one score" in found[0].why
