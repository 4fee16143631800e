"""Kinds of change, differences and shortening of cases, against what was worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.report.run_folders import binary_cases, case

from tunesmith.report import cases
from tunesmith.report.case_views import against, block, columns, fit, page


def made(base: float | None, tuned: float | None, **others: object) -> cases.Case:
    return cases.read_case(case(1, base, tuned, **others))


@pytest.mark.parametrize(
    ("base", "tuned", "binary", "kind"),
    [
        (1.0, 0.0, True, "broken"),
        (0.0, 1.0, True, "fixed"),
        (1.0, 1.0, True, "both-right"),
        (0.0, 0.0, True, "both-wrong"),
        (0.5, 0.25, False, "worsened"),
        (0.25, 0.5, False, "improved"),
    ],
)
def test_kind_goes_by_scores(base: float, tuned: float, binary: bool, kind: str) -> None:
    assert cases.kind(made(base, tuned), binary=binary) == kind


def test_kind_without_a_change_of_score_goes_by_text() -> None:
    assert cases.kind(made(0.5, 0.5, base_output="a", tuned_output="b"), binary=False) == "reworded"
    assert cases.kind(made(0.5, 0.5, base_output="a", tuned_output="a"), binary=False) == "same"
    assert cases.kind(made(None, None, base_output="a", tuned_output="b"), binary=False) == "reworded"
    assert cases.kind(made(0.5, None, tuned_output=None), binary=False) == "base-only"


def test_counts_by_hand() -> None:
    rows = [cases.read_case(r) for r in binary_cases()]
    tally = cases.counts(rows)
    wanted = {
        "all": 10,
        "fixed": 4,
        "broken": 1,
        "both-right": 3,
        "both-wrong": 2,
        "changed": 5,
        "worse": 1,
        "better": 4,
    }
    wanted |= {"base-right": 4, "base-wrong": 6, "tuned-right": 7, "tuned-wrong": 3}
    assert dict(tally) == wanted
    assert cases.counts([made(1.0, 1.0, tuned_stopped=False)])["tuned-cut"] == 1


def test_one_graded_score_makes_all_cases_graded() -> None:
    rows = [made(0.0, 1.0), made(0.0, 0.5)]
    assert not cases.is_right_or_wrong(rows)
    assert cases.is_right_or_wrong(rows[:1])
    assert not cases.is_right_or_wrong([])
    assert [k for k, _ in cases.in_reading_order(rows, binary=False)] == ["improved", "improved"]
    assert [c.tuned_score for _, c in cases.in_reading_order(rows, binary=False)] == [1.0, 0.5]  # larger change first


def test_nan_is_not_measured() -> None:
    assert made(float("nan"), 1.0).base_score is None


def test_differences_by_hand() -> None:
    left, right = cases.differences("the cat sat on a mat", "the dog sat on a mat")
    assert left == [("the", False), (" cat", True), (" sat on a mat", False)]
    assert right == [("the", False), (" dog", True), (" sat on a mat", False)]
    assert cases.differences("alpha beta gamma", "one two three")[0] == [("alpha beta gamma", False)]


@given(st.text(alphabet="ab c\n.é", max_size=60), st.text(alphabet="ab c\n.é", max_size=60), st.integers(1, 70))
def test_pieces_are_the_text(before: str, after: str, num_chars: int) -> None:
    for text, pieces in zip((before, after), cases.differences(before, after)):
        assert "".join(t for t, _ in pieces) == text
        head, tail = cases.cut(pieces, num_chars)
        assert "".join(t for t, _ in [*head, *tail]) == text
        assert sum(len(t) for t, _ in head) <= num_chars


@given(st.lists(st.text(alphabet="ab \n", max_size=120), max_size=5), st.text(alphabet="ab \n", max_size=90))
def test_shared_start_starts_every_prompt(ends: list[str], start: str) -> None:
    prompts = [start + end for end in ends]
    shared = cases.shared_start(prompts)
    assert all(p.startswith(shared) for p in prompts)
    assert shared == "" or len(shared) >= 60


def test_shared_start_ends_at_a_word() -> None:
    start = "Say in one word what this message is about, please. " * 2
    assert cases.shared_start([start + "Message one", start + "Message two"]) == start + "Message "
    assert cases.shared_start(["short one", "short two"]) == ""


def test_fields_against_the_reference() -> None:
    wanted = cases.json_fields('{"intent": "refund", "order": "17", "n": 1}')
    assert wanted is not None
    found = cases.json_fields('{"intent": "refund", "order": 17, "mood": {"bad": true, "x": []}}')
    assert found is not None
    rows = [(f.key, f.value, f.state) for f in against(found, wanted, 99)]
    assert rows == [
        ("intent", "refund", ""),
        ("order", "17", "wrong"),  # the number 17 is not the text "17"
        ("mood", '{"bad": true, "x": []}', "extra"),
        ("n", "", "missing"),
    ]


@pytest.mark.parametrize("text", ["", "no", '{"a": 1', "[1]", '{"a": 1} and more', '{"a": NaN}', "{" * 100_000, None])
def test_what_is_no_object_has_no_fields(text: str | None) -> None:
    assert cases.json_fields(text) is None


def test_fields_are_compared_as_the_metric_does() -> None:
    wanted = {"one": 1, "flag": True, "nested": {"a": 1, "b": 2}}
    found = {"one": True, "flag": True, "nested": {"b": 2.0, "a": 1}}
    assert [f.state for f in against(found, wanted, 99)] == ["wrong", "", ""]
    assert against({"a": "x" * 50}, {}, 10)[0].value == "x" * 10 + " … 40 more characters"


def test_columns_share_the_same_text_and_say_what_is_no_json() -> None:
    same = columns(made(1.0, 1.0, base_output="x", tuned_output="x"), 100, binary=True)
    assert [(c.title, c.right) for c in same] == [("Reference", None), ("Base and tuned, the same text", True)]
    row = made(0.0, 1.0, reference='{"a": 1}', base_output="hm", tuned_output='{"a": 1}', base_stopped=False)
    base, tuned = columns(row, 100, binary=True)[1:]
    assert (base.note, base.cut, base.right, base.fields) == ("not a JSON object", True, False, ())
    assert (tuned.note, tuned.cut, tuned.right, tuned.fields[0].state) == ("", False, True, "")


def test_block_counts_what_it_hides() -> None:
    found = block([("x" * 1000, False)], 700)
    assert (len(found.head[0][0]), found.num_tail, found.num_left_out) == (cases.HEAD_CHARS, 220, 300)
    assert block([("x" * 500, False)], 700).num_tail == 0  # twenty characters are shown rather than hidden


def test_fit_gives_all_cases_before_long_texts() -> None:
    rows = [made(0.0, 1.0, prompt="p" * 30_000) for _ in range(10)]
    assert fit(rows, 10_000_000) == (20_000, 10)
    cap, num = fit(rows, 40_000)
    assert num == 10
    assert cap < 4_000
    num = fit(rows, 10_000)[1]
    assert 1 < num < 10
    turns = [case(k, None, None, prompt="p" * 300) for k in range(2)]
    assert fit([made(0.0, 1.0, turns=turns) for _ in range(10)], 10_000)[1] == num // 2  # of each dialogue two turns
    assert page(rows, 40_000).num_shortened == 10


def test_of_a_pair_no_reply_is_right_or_wrong() -> None:
    """Its kinds say which reply is found likelier; a JSON reply is no answer whose fields could be wrong."""
    texts = {0.0: "the rejected reply", 1.0: "the chosen reply"}
    rows = [
        made(b, t, reference='{"a": 1}', rejected='{"a": 2}', base_output=texts[b], tuned_output=texts[t])
        for b, t in ((1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0))
    ]
    found = page(rows, 100_000)
    assert [v.short_kind for v in found.views] == [
        "now the rejected",
        "now the chosen",
        "now the chosen",
        "both the chosen",
    ]
    assert (found.parts, found.parts_title) == ((), "")
    chosen, rejected, base, tuned = found.views[0].columns
    assert (chosen.title, rejected.title, chosen.fields) == ("Chosen reply", "Rejected reply", ())
    assert (base.called, base.right, base.note) == ("the chosen reply", True, "")
    assert (tuned.called, tuned.right) == ("the rejected reply", False)
    names = cases.named(rows)
    assert not any("right" in word or "wrong" in word for word in names["short_kinds"].values())
    assert cases.named([made(1.0, 0.0)])["short_kinds"] == cases.SHORT_KINDS
