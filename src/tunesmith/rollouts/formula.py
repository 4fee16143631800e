"""Arithmetic that a recipe or a grader object says as text: numbers, names, a few functions, and nothing else.

Everything is a float, so that no power takes the machine's time, and a truth is 1 or 0. `^` is a power, as in OpenAI's
calculate_output; so is `**`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.errors import RecipeError

LONGEST = 400  # characters, which bounds how deep it can be nested
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp, "sqrt": math.sqrt,
    "log": math.log, "round": round,
}  # fmt: skip
SEVERAL = ("min", "max")  # take two or more; the others one
BINARY: dict[type, Callable[[float, float], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: math.pow,
}  # fmt: skip
COMPARE: dict[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
GRAMMAR = "numbers, names, + - * / % ^, comparisons, and, or, not, x if y else z, and " + ", ".join(FUNCTIONS)


class NoValue(ValueError):
    """The formula has no value at these numbers: a division by 0, a logarithm of -1."""


class Formula:
    """A text of arithmetic, checked as a whole before anything is computed."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            if len(text) > LONGEST:
                raise ValueError(f"it has {len(text)} characters, more than {LONGEST}")
            self.tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
            self.names = frozenset(checked(self.tree))
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise RecipeError(f"the formula {text[:80]!r} cannot be used: {error}. It may have {GRAMMAR}") from None

    def value(self, numbers: Mapping[str, float]) -> float:
        """At these numbers, which have all of `names`. NoValue where there is none, or one that is not finite."""
        try:
            found = computed(self.tree, numbers)
        except (ArithmeticError, ValueError) as error:
            raise NoValue(f"{self.text}: {error}") from None
        if not math.isfinite(found):
            raise NoValue(f"{self.text} comes to {found}, which is no number")
        return float(found)


def checked(tree: ast.expr) -> list[str]:
    """The names that are read. ValueError at anything that is not arithmetic."""
    names, called = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            is_many = len(node.args) >= 2 if name in SEVERAL else len(node.args) == 1
            if name not in FUNCTIONS or node.keywords or not is_many:
                raise ValueError(f"{ast.unparse(node)[:60]} is no call of a known function")
            called.add(id(node.func))
        elif isinstance(node, ast.Name):
            if id(node) not in called:
                names.append(node.id)
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, (int, float)):
                raise ValueError(f"{node.value!r:.40} is no number")
            float(node.value)  # OverflowError: beyond what a float holds
        elif not isinstance(node, ALLOWED):
            raise ValueError(f"{ast.unparse(node)[:60] if isinstance(node, ast.expr) else type(node).__name__} is no "
                             "arithmetic")  # fmt: skip
    return names


ALLOWED = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Load, ast.USub, ast.UAdd, ast.Not, ast.And,
           ast.Or, *BINARY, *COMPARE)  # fmt: skip


def computed(node: ast.expr, numbers: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, (int, float))
        return float(node.value)
    if isinstance(node, ast.Name):
        return float(numbers[node.id])
    if isinstance(node, ast.BinOp):
        return BINARY[type(node.op)](computed(node.left, numbers), computed(node.right, numbers))
    if isinstance(node, ast.UnaryOp):
        inner = computed(node.operand, numbers)
        return float(not inner) if isinstance(node.op, ast.Not) else -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BoolOp):
        is_all = isinstance(node.op, ast.And)
        return float((all if is_all else any)(computed(value, numbers) for value in node.values))
    if isinstance(node, ast.IfExp):
        return computed(node.body if computed(node.test, numbers) else node.orelse, numbers)
    if isinstance(node, ast.Compare):
        sides = [computed(side, numbers) for side in (node.left, *node.comparators)]
        return float(all(COMPARE[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:])))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return float(FUNCTIONS[node.func.id](*(computed(value, numbers) for value in node.args)))
