"""Habits that hide faults: swallowed errors, pickles, prints, state, notes without an issue, paths of one machine."""

from __future__ import annotations

import ast
import re

import pytest
from tests.house.source import Source, all_python, all_text, at, package

FIRES = "tests/faults/evil.py"  # writes pickles, and reads them to show that they fire
BROAD = {"Exception", "BaseException"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "cloudpickle"}
NOTE = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\s?\(?#\d+)")
MACHINE_PATH = re.compile(r"(?<![\w.~$}/])/(?:root|home/\w+|work|Users/\w+|opt|mnt|srv|farm|data)/\w")


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def swallowed(source: Source) -> list[str]:
    """Bare `except`, and broad ones that say nothing."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            names = {ast.unparse(n) for n in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]) if n}
            is_mute = all(isinstance(line, ast.Pass | ast.Continue | ast.Expr) for line in node.body) and not any(
                isinstance(inner, ast.Call | ast.Raise) for line in node.body for inner in ast.walk(line)
            )
            if node.type is None:
                found.append(at(source, node, "bare except"))
            elif names & BROAD and is_mute:
                found.append(at(source, node, "swallows every error"))
        elif called(node).split(".")[-1] == "suppress" and {ast.unparse(a) for a in node.args} & BROAD:  # type: ignore[attr-defined]
            found.append(at(source, node, "swallows every error"))
    return found


def pickles(source: Source) -> list[str]:
    """Files that run code when they are read."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [at(source, node, f"imports {n}") for n in names if n.split(".")[0] in PICKLES]
        elif isinstance(node, ast.Call):
            name = called(node)
            if name == "torch.load" and keyword(node, "weights_only") != "True":
                found.append(at(source, node, "torch.load without weights_only=True"))
            if name.endswith("read_pickle") or name == "joblib.load" or keyword(node, "allow_pickle") == "True":
                found.append(at(source, node, f"{name} unpickles"))
    return found


def mute_or_global(source: Source) -> list[str]:
    """`print` outside the command line, `global`, and `getattr(x, "y", None)` to dodge a version."""
    found = []
    for node in ast.walk(source.tree):
        if called(node) == "print" and not source.path.startswith("src/tunesmith/cli/"):
            found.append(at(source, node, "print belongs to cli/"))
        if isinstance(node, ast.Global):
            found.append(at(source, node, "module-level mutable state"))
        if called(node) == "getattr" and len(node.args) == 3:  # type: ignore[attr-defined]
            name, default = node.args[1:]  # type: ignore[attr-defined]
            if isinstance(name, ast.Constant) and ast.unparse(default) == "None":
                found.append(at(source, node, "getattr with None dodges a check"))
    return found


def notes(source: Source) -> list[str]:
    lines = enumerate(source.text.splitlines(), 1)
    return [f"{source.path}:{i}: a note without an issue number" for i, line in lines if NOTE.search(line)]


def machine_paths(source: Source) -> list[str]:
    lines = enumerate(source.text.splitlines(), 1)
    return [
        f"{source.path}:{i}: {m[0]}… is a path of one machine" for i, line in lines if (m := MACHINE_PATH.search(line))
    ]


def own_text() -> list[Source]:
    """All text but the licence and the examples that the checks below are tried on."""
    return [s for s in all_text() if s.path not in ("LICENSE", "tests/house/test_habits.py")]


@pytest.mark.parametrize("check", [swallowed, pickles, mute_or_global])
def test_habits_of_the_package(check) -> None:
    assert [line for source in package() for line in check(source)] == []


@pytest.mark.parametrize("check", [swallowed, pickles])
def test_habits_of_tests_and_scripts(check) -> None:
    assert [line for source in all_python() for line in check(source) if source.path != FIRES] == []


@pytest.mark.parametrize("check", [notes, machine_paths])
def test_text(check) -> None:
    assert any(source.path == "README.md" for source in own_text())
    assert [line for source in own_text() for line in check(source)] == []


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (swallowed, "try: x\nexcept: raise"),
        (swallowed, "try: x\nexcept Exception: pass"),
        (swallowed, "for a in b:\n  try: x\n  except (ValueError, Exception): continue"),
        (swallowed, "try: x\nexcept BaseException:\n  ..."),
        (swallowed, "with contextlib.suppress(Exception): x"),
        (pickles, "import pickle"),
        (pickles, "from dill import load"),
        (pickles, "torch.load(path)"),
        (pickles, "torch.load(path, weights_only=False)"),
        (pickles, "np.load(path, allow_pickle=True)"),
        (mute_or_global, "def f(): print(1)"),
        (mute_or_global, "def f():\n  global x\n  x = 1"),
        (mute_or_global, "getattr(config, 'sliding_window', None)"),
        (notes, "x = 1  # TODO later"),
        (notes, "FIXME: broken"),
        (machine_paths, "see /home/ann/runs"),
        (machine_paths, "open('/root/x')"),
        (machine_paths, "/".join(("cd ", "work", "main"))),
        (machine_paths, '"/Users/bob/x"'),
    ],
)
def test_mutant_bad_habit_is_found(check, text: str) -> None:
    assert check(Source("src/tunesmith/data/a.py", text))


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (swallowed, "try: x\nexcept ValueError: pass\nexcept Exception as e:\n  failed(e)"),
        (swallowed, "with suppress(FileNotFoundError): x"),
        (pickles, "torch.load(path, weights_only=True)"),
        (mute_or_global, "console.print(1)\ngetattr(x, name, None)\ngetattr(x, 'y', 0)"),
        (notes, "# TODO(#12) and FIXME #3, a mastodon"),
        (machine_paths, "https://example.org/home/ann/x ~/.cache/x ../there/x runs/data/x"),
    ],
)
def test_what_is_right_is_left_alone(check, text: str) -> None:
    assert check(Source("src/tunesmith/data/a.py", text)) == []


def test_the_command_line_may_print() -> None:
    assert mute_or_global(Source("src/tunesmith/cli/main.py", "print(1)")) == []
