"""Each kind of finding names a command that exists, with options and recipe lines that are read."""

from __future__ import annotations

import ast
import re
import shlex
from itertools import pairwise

import pytest
from tests.house import source
from tests.house.test_command_help import parse
from tests.house.test_docs import command_tree

from tunesmith.cli.audit import refuse_drop
from tunesmith.data import blemishes, leaks, shift
from tunesmith.data.finding import WORDS, finding
from tunesmith.data.remedies import BLANK, COMMANDS, ROWS, SENTENCES, filled
from tunesmith.errors import InputError, RecipeError
from tunesmith.recipe import override, read

SAID = {"GIVEN": "--data rows.jsonl", "TOGETHER": "--data rows.jsonl --data test.jsonl --set data.test=[]",
        "ANEW": "--data rows.jsonl --set data.split_by=content", "INPUTS": "asked.jsonl",
        "MODEL": "smollm2-135m-instruct", "MORE": "2048"}  # fmt: skip


def kinds_made() -> set[str]:
    """The kinds that the source makes findings of: words in calls, and the tables that others are taken from."""
    calls = [node for one in source.package() for node in ast.walk(one.tree) if isinstance(node, ast.Call)]
    named = [(getattr(c.func, "id", getattr(c.func, "attr", "")), c.args) for c in calls]
    words = {
        a[0].value for name, a in named if name in ("finding", "told", "add") and a and isinstance(a[0], ast.Constant)
    }
    levels = {f"{part}_{level}" for part in ("dev", "test") for level in leaks.LEVELS}
    return {*words, *WORDS, *blemishes.PERSONAL, *levels, *(kind for kind, *_ in shift.WORDS.values())}


def test_a_finding_without_a_command_cannot_be_made() -> None:
    """Mutant: a finding by another door than `finding`, which looks its command up."""
    doors = [one for one in source.package() if "class Finding" in one.text or "data.finding import" in one.text]
    made = {one.path for one in doors if re.search(r"\bFinding\(", one.text)}
    assert made == {"src/tunesmith/data/finding.py", "src/tunesmith/doctor.py"}  # the doctor's are another class
    with pytest.raises(KeyError):
        finding("new", 1, 1, (), ("is new", "who knows", "nobody"))
    assert finding("twins", 1, 1).command == COMMANDS["twins"]
    found = {kind for kind in kinds_made() if isinstance(kind, str)}
    assert len(found) > 30
    assert found <= {*COMMANDS}
    assert {*COMMANDS} - found <= {*SENTENCES, *ROWS}


def held(command: str) -> None:
    """Raises where the command line, the recipe or `--drop` would."""
    words = shlex.split(filled(command, SAID))
    assert words[0] == "tunesmith"
    parse(command_tree(), words[1:])
    pairs = list(pairwise(words))
    read(None, dict(override(value) for name, value in pairs if name == "--set"))
    refuse_drop([value for name, value in pairs if name == "--drop"], next((v for n, v in pairs if n == "--fix"), None))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_command_of_a_finding_is_one(kind: str) -> None:
    held(COMMANDS[kind])
    assert not BLANK.search(filled(COMMANDS[kind], SAID))


@pytest.mark.parametrize(
    ("command", "error"),
    [("tunesmith audit GIVEN --mend new", Exception), ("tunesmith audit GIVEN --set data.maxtokens=3", RecipeError),
     ("tunesmith audit GIVEN --fix mended --drop twin", InputError), ("tunesmith clean GIVEN", Exception)],
)  # fmt: skip
def test_a_command_that_is_none_is_noticed(command: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        held(command)
