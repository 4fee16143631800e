"""What --help promises: it is quick, the first hour's commands stand first, every example is one that works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from tests.house.test_docs import command_tree, leaves

FIRST = ("init", "run", "chat", "predict", "report")
CPU_S = 0.5  # user + system time of one --help; wall clock says nothing where others share the machine


def panels() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, command in command_tree().commands.items():
        found.setdefault(command.rich_help_panel, []).append(name)
    return found


def examples(help_text: str) -> list[str]:
    """The commands of the `Example:` lines of a help text."""
    return re.findall(r"^\s*Example: (tunesmith .*)$", help_text, re.M)


def words_of(example: str) -> list[str]:
    """Its words behind `tunesmith`, up to a redirection or pipe of the shell."""
    words = shlex.split(example)[1:]
    ends = [i for i, word in enumerate(words) if word in (">", "|", "&&")]
    return words[: ends[0]] if ends else words


def parse(root: Any, words: list[str]) -> None:
    """Parses as the command line would, and calls nothing. Raises what a wrong option, value or count raises."""
    context, command = None, root
    while hasattr(command, "commands"):
        context = command.make_context("tunesmith", words, parent=context)
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, words, parent=context)


def cases() -> list[tuple[str, Any]]:
    return [(" ".join(words), command) for words, command in leaves(command_tree())]


@pytest.mark.parametrize(("name", "command"), cases(), ids=[name for name, _ in cases()])
def test_every_command_has_examples_that_parse(name: str, command: Any) -> None:
    found = examples(command.help or "")
    assert found, f"tunesmith {name}: its help has no `Example: tunesmith {name} …`"
    for example in found:
        assert words_of(example)[: len(name.split())] == name.split()
        parse(command_tree(), words_of(example))


@pytest.mark.parametrize("wrong", ["run --no-such-option", "plan a.yaml b.yaml", "no-such-command", "completion tcsh"])
def test_mutant_example_that_does_not_parse_is_found(wrong: str) -> None:
    with pytest.raises(Exception) as raised:
        parse(command_tree(), wrong.split())
    assert "UsageError" in [kind.__name__ for kind in type(raised.value).__mro__]


def test_the_first_commands_stand_first() -> None:
    first, *others = panels()
    wanted = [name for name in FIRST if name in command_tree().commands]
    assert panels()[first] == wanted
    assert others == ["More"], "one heading for the rest"


def test_summaries_are_one_sentence() -> None:
    for name, command in cases():
        summary = (command.help or "").split("\n\n")[0]
        assert len(summary) < 120, f"tunesmith {name}: the first paragraph of its help stands in --help"


def test_help_costs_less_than_half_a_second() -> None:
    """On the best of three tries, since another process may spoil a cache."""
    code = "import resource; import tunesmith.cli.main as m; import sys; sys.argv = ['tunesmith', '--help']"
    code += "\ntry:\n    m.main()\nexcept SystemExit:\n    pass"
    code += "\nu = resource.getrusage(resource.RUSAGE_SELF)\nprint(u.ru_utime + u.ru_stime, file=sys.stderr)"
    if sys.platform == "win32":
        pytest.skip("no resource module")
    spent = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
        assert "Start here" in done.stdout
        spent.append(float(done.stderr.split()[-1]))
    assert min(spent) < CPU_S, spent
