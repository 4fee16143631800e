"""docs/troubleshooting.md quotes messages as the code says them, and exit codes as the code returns them."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.house.source import ROOT, package

from tunesmith import errors
from tunesmith.cli import faults, words

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.compile(r"^\| `([^`]+)` \|", re.M)


def one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def spoken() -> list[str]:
    """Every text of the package, with … for what is filled in."""
    found = []
    for source in package():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.JoinedStr):
                parts = (str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append(one_line("".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(one_line(node.value))
    return found


def unspoken(page: str, texts: list[str]) -> list[str]:
    """Quoted messages of which some part between two … is in no text of the package that has all of them in order."""
    wrong = []
    for quote in QUOTED.findall(page):
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in quote.split("…")))
        if not any(pattern.search(text) for text in texts):
            wrong.append(quote)
    return wrong


def test_each_quoted_message_is_in_the_code() -> None:
    assert len(QUOTED.findall(PAGE)) > 30
    assert unspoken(PAGE, spoken()) == []


def test_mutant_a_message_that_nobody_says_is_found() -> None:
    page = "| `the moon is … away.` | x |\n| `there is no such file or folder. Check the name.` | y |\n"
    assert unspoken(page, spoken()) == ["the moon is … away."]


def test_the_exit_codes_are_those_of_the_code() -> None:
    table = PAGE.split("## Exit codes")[1].split("\n## ")[0]
    rows = {row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ") and "---" not in row}
    listed = {int(n) for row in rows for n in re.findall(r"\d+", row)}
    classes = [getattr(errors, name) for name in dir(errors)]
    returned = {c.exit_code for c in classes if isinstance(c, type) and issubclass(c, errors.TunesmithError)}
    assert returned | {faults.FAILED, faults.WRONG, words.READER_GONE} == {1, 2, 75, 141}
    assert listed == {0, 3, 130} | {1, 2, 75, 141}
