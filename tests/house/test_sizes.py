"""Sizes of STYLE, section 12. Past a limit, find the second idea in the file and name it; do not just split."""

from __future__ import annotations

import ast

import pytest
from tests.house.source import Source, all_python, functions, package

FILE_LINES = 400
SHORTER = {"src/tunesmith/engine/loop.py": 80}
FUNCTION_LINES = 60
ARGUMENTS = 7
NESTING = 4
# Functions that a library calls with its own arguments, or whose arguments are an operator's schema.
THEIR_ARGUMENTS = {
    "src/tunesmith/cli/job.py run": "typer reads a command's options from its arguments",
    "src/tunesmith/cli/job.py plan": "the same",
    "src/tunesmith/cli/job.py train": "the same",
    "src/tunesmith/cli/init.py init": "the same",
    "src/tunesmith/cli/audit.py audit": "the same",
    "src/tunesmith/cli/select.py select": "typer reads a command's options from its arguments",
    "src/tunesmith/cli/predict.py predict": "typer reads a command's options from its arguments",
    "src/tunesmith/cli/chat.py chat": "the same",
    "src/tunesmith/cli/evaluate.py evaluate": "the same",
    "src/tunesmith/cli/distil.py distil": "the same",
    "src/tunesmith/cli/prefer.py prefer": "the same",
    "src/tunesmith/cli/models.py models": "the same",
    "src/tunesmith/cli/sweep.py sweep": "the same",
    "src/tunesmith/cli/curve.py curve": "the same",
    "src/tunesmith/cli/ask.py ask": "the same",
    "src/tunesmith/cli/synthesise.py synthesise": "the same",
    "src/tunesmith/generate/buffers.py decode_attention": "called by transformers' AttentionInterface",
    "src/tunesmith/models/attention.py _forest_attention": "schema of a torch custom operator",
    "src/tunesmith/models/attention.py _": "the same operator's fake",
}
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def nesting(node: ast.AST) -> int:
    """Depth of blocks under a node. `elif` is no deeper than its `if`; an inner function counts for itself."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            is_elif = isinstance(node, ast.If) and field == "orelse" and isinstance(child, ast.If) and len(value) == 1
            deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All but self and cls."""
    a = function.args
    named = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + bool(a.vararg) + bool(a.kwarg)


def oversized(source: Source) -> list[str]:
    found = []
    num_lines = len(source.text.splitlines())
    limit = SHORTER.get(source.path, FILE_LINES)
    if num_lines > limit:
        found.append(f"{source.path}: {num_lines} lines, limit {limit}")
    for function in functions(source.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        own_arguments = 0 if f"{source.path} {function.name}" in THEIR_ARGUMENTS else num_arguments(function)
        for value, most, what in (
            (lines, FUNCTION_LINES, "lines"),
            (own_arguments, ARGUMENTS, "arguments"),
            (nesting(function), NESTING, "levels of nesting"),
        ):
            if value > most:
                found.append(f"{source.path}:{function.lineno}: {function.name} has {value} {what}, limit {most}")
    return found


def test_sizes_of_the_package() -> None:
    assert package()
    assert [line for source in package() for line in oversized(source)] == []


def test_every_exception_is_still_needed() -> None:
    over = {f"{s.path} {f.name}" for s in package() for f in functions(s.tree) if num_arguments(f) > ARGUMENTS}
    assert set(THEIR_ARGUMENTS) - over == set()


def test_sizes_of_tests_and_scripts() -> None:
    others = [source for source in all_python() if not source.path.startswith("src/")]
    assert [line for source in others for line in oversized(source)] == []


DEEP = "def f():\n if a:\n  for b in c:\n   while d:\n    with e:\n     try:\n      x\n     except E:\n      y"


@pytest.mark.parametrize(
    ("path", "text", "word"),
    [
        ("data/a.py", "x = 1\n" * 401, "401 lines"),
        ("engine/loop.py", "x = 1\n" * 81, "81 lines"),
        ("data/a.py", "def f():\n" + "    x = 1\n" * 60, "61 lines"),
        ("data/a.py", "def f(a, b, c, d, e, /, f, *, g, **h): pass", "8 arguments"),
        ("data/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h): pass", "8 arguments"),
        ("data/a.py", DEEP, "5 levels"),
    ],
)
def test_mutant_oversize_is_found(path: str, text: str, word: str) -> None:
    assert any(word in line for line in oversized(Source(f"src/tunesmith/{path}", text)))


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 400,
        "def f():\n" + "    x = 1\n" * 59,
        "class A:\n    def f(self, a, b, c, d, e, f, g): pass",
        "def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n elif e: pass\n else: pass",
        "def f():\n if a:\n  for b in c:\n   while d:\n    if e:\n     def g():\n      if h: pass",
    ],
)
def test_what_is_just_within_is_left_alone(text: str) -> None:
    assert oversized(Source("src/tunesmith/data/a.py", text)) == []
