"""The schema for editors: it accepts what `parse` accepts, refuses what it refuses, and says what each key is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipe import known_keys, parse
from tunesmith.schema import REWARD, comments, descriptions, json_schema

COMMAND = [sys.executable, "-m", "tunesmith.cli.main"]


@dataclass
class Shelf:
    """A shelf."""

    width: int = 3  # of the board, in cm
    # how many boards,
    # from the floor up
    boards: tuple[int, ...] = ()  # counted
    colour: str = "red"

    def paint(self) -> None:
        pass  # not a field


def test_words_are_those_beside_the_field() -> None:
    assert comments(Shelf) == {"width": "of the board, in cm", "boards": "how many boards, from the floor up counted"}


def test_every_key_of_a_recipe_has_words() -> None:
    found = descriptions()
    assert [key for key in known_keys() if key not in found] == []


RIGHT: list[dict[str, Any]] = [
    {},
    {"model": "x", "data": {"train": "a.csv", "test": ["b.csv"], "columns": {"prompt": ["a", "b"], "label": "c"}}},
    {"train": {"lr": 1e-4, "schedule": {"kind": "linear"}, "max_updates": None}, "adapt": None},
    {"train": {"lr": "auto"}, "export": ["adapter"]},
    {"reward": {"kind": "exact"}},
    {"reward": [{"kind": "sum", "clip": [0, 1], "parts": [{"kind": "regex", "pattern": "a", "weight": -1}]}]},
]
WRONG: list[dict[str, Any]] = [
    {"modle": "x"},
    {"train": {"epoch": 3}},
    {"train": {"lr": "fast"}},
    {"adapt": {"method": "lorra"}},
    {"data": {"columns": {"prompts": "a"}}},
    {"data": 3},
    {"precision": "fp8"},
    {"reward": [{"kind": "exakt"}]},
    {"reward": [{"kind": "exact", "pattern": "a"}]},
    {"reward": [{"kind": "regex"}]},
    {"reward": [{"kind": "sum", "parts": [{"kind": "regex"}]}]},
]


@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_what_parses_is_valid(settings: dict[str, Any]) -> None:
    parse(settings)
    jsonschema.Draft202012Validator(json_schema()).validate(settings)


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_what_does_not_parse_is_not_valid(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        parse(settings)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(settings)


def test_it_is_a_schema_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert described(schema, schema) == set(known_keys())


def described(record: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted keys with a description, through all references."""
    found = set()
    for name, inner in record["properties"].items():
        assert inner["description"], f"{prefix}{name}"
        refs = [o["$ref"].rsplit("/", 1)[-1] for o in inner.get("anyOf", []) if "$ref" in o]
        is_listed = any(o.get("type") == "array" for o in inner.get("anyOf", []))  # its parts are no keys of the recipe
        refs = [ref for ref in refs if ref != REWARD]
        groups = [described(schema["$defs"][ref], schema, f"{prefix}{name}.") for ref in refs]
        found |= set().union(*groups) if groups and not is_listed else {f"{prefix}{name}"}
    return found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_each_shell_has_a_script(shell: str) -> None:
    done = subprocess.run([*COMMAND, "completion", shell], capture_output=True, text=True, check=True)
    assert "tunesmith" in done.stdout
    assert f"complete_{shell}" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """As bash calls it: with the words typed so far, through the program's own name."""
    program = tmp_path / "tunesmith"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tunesmith.cli.main "$@"\n')
    program.chmod(0o755)
    script = """
eval "$(tunesmith completion bash)"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tunesmith_completion tunesmith; echo "${COMPREPLY[@]}"; }
ask tunesmith sche
ask tunesmith run --dry
ask tunesmith completion z
"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.split("\n")[:3] == ["schema", "--dry-run", "zsh"], done.stderr
