"""The package's source as the house tests read it: text and syntax tree of each file."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "tunesmith"
SKIPPED = {"build", "dist", "runs", "__pycache__"}  # and what starts with a dot, save .ci
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".jsonl",
    ".html",
    ".jinja",
    ".sh",
    ".cfg",
    "",
}


@dataclass(frozen=True)
class Source:
    path: str  # relative to the repository, with slashes
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """Dotted name: src/tunesmith/data/shop.py is tunesmith.data.shop."""
        name = self.path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        return name.removesuffix(".__init__")


def read(folder: str, suffixes: set[str]) -> list[Source]:
    """The text files under a folder of the repository; caches and builds are left out."""
    found = []
    for parent, folders, names in os.walk(ROOT / folder):
        dull = [f for f in folders if f in SKIPPED or f.endswith(".egg-info") or (f.startswith(".") and f != ".ci")]
        folders[:] = sorted(set(folders) - set(dull))
        for path in (Path(parent, name) for name in sorted(names)):
            if path.suffix in suffixes and not path.name.startswith("."):
                found.append(Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")))
    return found


def package() -> list[Source]:
    return read("src", {".py"})


def all_python() -> list[Source]:
    return [source for folder in ("src", "tests", "bench", "examples") for source in read(folder, {".py"})]


def all_text() -> list[Source]:
    return read(".", TEXT_SUFFIXES)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def at(source: Source, node: ast.AST, what: str) -> str:
    return f"{source.path}:{getattr(node, 'lineno', 0)}: {what}"
