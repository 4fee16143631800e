"""One word per thing; a file is named after its idea (STYLE, section 3)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest
from tests.house.source import ROOT, Source, all_python, at, package

NO_FILES = {"utils", "util", "common", "misc", "helpers", "helper", "base", "core", "lib"}
NO_CLASSES = re.compile(r"^Base[A-Z]|(Manager|Handler|Mixin|Helper|Util|Utils)$")
NO_ENDINGS = re.compile(r"_(v\d+|new|old|legacy|tmp|percent|pct)$")
# Word -> what it is called here. Only names that we define are looked at, not those of libraries that we call.
NO_WORDS = {
    "datum": "example",
    "samples": "examples",
    "instances": "examples",
    "iteration": "update",
    "iterations": "update",
    "globalstep": "update",
    "minibatch": "micro_batch",
    "microbatch": "micro_batch",
    "percentage": "_frac",
}


def defined(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Names that a file gives: classes, functions, arguments, variables, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, node.name
        elif isinstance(node, ast.arg):
            yield node, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node, node.id


def wrong_names(source: Source) -> list[str]:
    found = []
    stem = PurePosixPath(source.path).stem
    if stem in NO_FILES:
        found.append(f"{source.path}: a file is named after its idea")
    for node, name in defined(source.tree):
        words = name.lower().replace("global_step", "globalstep").replace("mini_batch", "minibatch").split("_")
        found += [at(source, node, f"{name}: say {NO_WORDS[word]}") for word in words if word in NO_WORDS]
        if isinstance(node, ast.ClassDef) and NO_CLASSES.search(name):
            found.append(at(source, node, f"{name}: a record is a noun, a protocol is its role"))
        if NO_ENDINGS.search(name):
            found.append(at(source, node, f"{name}: one version only; fractions end in _frac"))
        if re.match(r"n_[a-z]", name):
            found.append(at(source, node, f"{name}: counts start with num_"))
    return found


def test_names_of_the_package() -> None:
    assert [line for source in package() for line in wrong_names(source)] == []


def test_names_of_files_and_classes_elsewhere() -> None:
    for source in all_python():
        assert PurePosixPath(source.path).stem not in NO_FILES, source.path
        for node in ast.walk(source.tree):
            assert not (isinstance(node, ast.ClassDef) and NO_CLASSES.search(node.name)), at(source, node, "class")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data/utils.py", ""),
        ("common.py", ""),
        ("data/a.py", "class BaseFeed: pass"),
        ("data/a.py", "class RunManager: pass"),
        ("data/a.py", "class ErrorHandler: pass"),
        ("data/a.py", "class LossMixin: pass"),
        ("data/a.py", "def pack_v2(): pass"),
        ("data/a.py", "def f(n_examples): pass"),
        ("data/a.py", "global_step = 0"),
        ("data/a.py", "def f(num_samples): pass"),
        ("data/a.py", "class A:\n    learned_percent: float = 0"),
        ("data/a.py", "for iteration in x: pass"),
    ],
)
def test_mutant_wrong_name_is_found(path: str, text: str) -> None:
    assert wrong_names(Source(f"src/tunesmith/{path}", text))


def test_names_of_libraries_and_good_names_are_left_alone() -> None:
    text = (
        "def sample(prompts, num_examples, learned_frac):\n    return f(n_jobs=2, samples=x.samples, max_new_tokens=3)"
    )
    assert wrong_names(Source("src/tunesmith/data/a.py", text + "\nclass Based: pass\nclass Database: pass")) == []


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest takes two files of one name for the same module, and collects neither of them safely."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
