"""Laws of rewards, worked out by hand: the sum, its weights and clips, what cannot be graded, formulas, the length
term. Each with a mutant that it catches."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.attempts import attempt

from tunesmith.errors import RecipeError
from tunesmith.rollouts import combined, formula, kinds, matches, parts, rewards
from tunesmith.rollouts.formula import Formula, NoValue
from tunesmith.rollouts.parts import Part, Ungradable, each
from tunesmith.rollouts.rewards import make_reward

RIGHT = attempt("it is 42", num_tokens=9)
PARTS: list[dict[str, Any]] = [
    {"kind": "numeric", "weight": 3},
    {"kind": "length", "most": 10, "buffer": 4, "weight": 0.5, "clip": [-0.5, 0]},
    {"kind": "regex", "pattern": "is", "weight": -0.25},
]


def the_sum() -> None:
    """3 x 1 + 0.5 x -0.5 (which would be -0.75) - 0.25 x 1 = 2.5."""
    reward = make_reward(PARTS)
    [grade] = reward([RIGHT])
    assert grade.value == 2.5
    assert dict(grade.parts) == {"numeric": 1.0, "length": -0.5, "regex": 1.0}
    assert (reward.low, reward.high) == (-0.5, 3.0)
    [clipped] = make_reward([{"kind": "sum", "parts": PARTS, "clip": [-1, 1]}])([RIGHT])
    assert clipped.value == 1.0
    assert clipped.parts["sum.length"] == -0.5


def test_the_sum_is_what_a_hand_adds_up() -> None:
    the_sum()


def with_weights(change: Callable[[list[float]], list[float]]) -> Any:
    summed = combined.summed
    return lambda those, weights, name: summed(those, change(weights), name)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "a clip left out": (combined, "clipped", lambda part, clip: part),
    "a mean instead of the sum": (combined, "summed", with_weights(lambda w: [v / len(w) for v in w])),
    "weights dropped": (combined, "summed", with_weights(lambda w: [1.0] * len(w))),
    "a weight's sign dropped": (combined, "summed", with_weights(lambda w: list(map(abs, w)))),
    "a length term without a line": (matches, "overlong", lambda size, most, buffer: -float(size > most)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_sum_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, function, mutant = MUTANTS[name]
    for there in (module, rewards):
        monkeypatch.setattr(there, function, mutant, raising=False)
    with pytest.raises(AssertionError):
        the_sum()


def failing(low: float, high: float) -> Part:
    def case(attempt: object) -> float:
        raise Ungradable("broken")

    return Part("failing", low, high, each(case, low))


def the_worst_counts() -> None:
    """A part that cannot grade takes the least of its share of the sum, whatever the sign of its weight."""
    good = matches.numeric(kinds.Numeric(kind="numeric"), "numeric")
    for weight, worst in ((2.0, -2.0), (-2.0, -6.0)):  # values -1 to 3
        [grade] = combined.summed([good, failing(-1, 3)], [1.0, weight], "sum").grade([RIGHT])
        assert grade.value == 1 + worst
        assert not grade.is_graded
        assert grade.why == "failing: broken"


def test_what_cannot_be_graded_has_the_least() -> None:
    the_worst_counts()


def test_mutant_the_ungraded_as_nought_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(case: Callable[..., float], given: Any, low: float) -> Any:
        return parts.Grade(0.0, why="broken", is_graded=True)

    monkeypatch.setattr(parts, "one", mutant)
    with pytest.raises(AssertionError):
        the_worst_counts()


@given(
    st.lists(st.tuples(st.floats(-5, 5).filter(bool), st.floats(-3, 3), st.floats(0.1, 3)), min_size=1, max_size=4),
    st.data(),
)
def test_a_sum_stays_within_its_ends(those: list[tuple[float, float, float]], data: st.DataObject) -> None:
    made, weights = [], []
    for k, (weight, low, width) in enumerate(those):
        value = data.draw(st.floats(low, low + width))
        case = (lambda a, v=value: v) if data.draw(st.booleans()) else failing(low, low + width)
        made.append(case if isinstance(case, Part) else Part(f"p{k}", low, low + width, each(case, low)))
        weights.append(weight)
    total = combined.summed(made, weights, "sum")
    [grade] = total.grade([RIGHT])
    assert total.low - 1e-9 <= grade.value <= total.high + 1e-9


# -- formulas -------------------------------------------------------------------------------------------------------

NUMBERS = {"a": 0.5, "b": 3.0, "c": -1.0}
VALUES = {
    "0.8 * a + 0.2 * b": 1.0, "b ^ 2": 9.0, "b ** 2 % 5": 4.0, "-c": 1.0, "min(a, b, c) + max(a, b)": 2.0,
    "floor(a) + ceil(a) + abs(c)": 2.0, "exp(0) + sqrt(4) + log(1)": 3.0, "a if b > 2 else c": 0.5,
    "0 < a < 1 and b == 3": 1.0, "not a or c >= 0": 0.0, "(a + b) / 2": 1.75, "round(b / 2)": 2.0,
    "2 ^ 3 ^ 2": 512.0,
}  # fmt: skip


def the_formulas() -> None:
    for text, value in VALUES.items():
        assert Formula(text).value(NUMBERS) == pytest.approx(value), text


def test_formulas_by_hand() -> None:
    the_formulas()


def test_mutant_a_caret_that_is_no_power_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formula.BINARY, ast.Pow, operator.mul)
    with pytest.raises(AssertionError):
        the_formulas()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "a.real", "a[0]", "[x for x in a]", "lambda: 1", "'x' * 9", "min(a)", "abs(a, b)",
        "print(a)", "max(*a, b)", "max(a, b, key=a)", "(a := 1)", "a if b", "", "f'{a}'", "a; b", "1" * 500, "1j",
        "(" * 300, "a @ b", "a in b", "a // b << 2", "{a}", "~a", "9" * 390, "None", "await a",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="cannot be used"):
        Formula(text)


@pytest.mark.parametrize("text", ["9 ^ 9 ^ 9 ^ 9", "exp(9 ^ 9)", "a / 0", "log(c)", "c ^ 0.5", "1e308 * 10", "b % 0"])
def test_no_formula_takes_the_machine(text: str) -> None:
    with pytest.raises(NoValue):
        Formula(text).value(NUMBERS)


def test_a_formula_may_be_as_deep_as_it_is_long() -> None:
    assert Formula("-" * 399 + "a").value(NUMBERS) == -0.5


def test_a_formula_reads_facts_parts_and_the_attempt() -> None:
    keys = {"kind": "expression", "expression": "numeric * level - 0.1 * num_words + stopped", "clip": [-5, 5]}
    [grade] = make_reward([{**keys, "parts": [{"kind": "numeric", "reference": "answer"}]}])(
        [attempt("the answer: 42", answer=42, level=3)]
    )
    assert grade.value == pytest.approx(3 - 0.3 + 1)
    assert grade.parts["expression.numeric"] == 1
    [grade] = make_reward([{**keys, "expression": "1 / (num_tokens - 5)"}])([RIGHT, attempt("x")])[1:]
    assert (grade.value, grade.is_graded) == (-5, False)
    assert "division by zero" in grade.why


# -- what is computed here ------------------------------------------------------------------------------------------


def test_the_length_term_is_dapos() -> None:
    """Eq. 13 with L_max 10 and L_cache 4."""
    assert [matches.overlong(n, 10, 4) for n in (1, 6, 7, 8, 10, 11, 99)] == [0, 0, -0.25, -0.5, -1, -1, -1]


@given(st.text("abc ", max_size=12), st.text("abc ", max_size=12))
def test_the_common_subsequence_is_the_table_s(a: str, b: str) -> None:
    row = [0] * (len(b) + 1)
    for char in a:
        last = row[:]
        for j, other in enumerate(b):
            row[j + 1] = last[j] + 1 if char == other else max(last[j + 1], row[j])
    assert matches.in_common(a, b) == row[-1]


def test_fuzzy_by_hand() -> None:
    assert matches.fuzzy("this is a test", "this is a test!") == pytest.approx(28 / 29)
    assert matches.fuzzy("", "") == 1
    assert matches.fuzzy("abc", "") == 0
