"""The documentation keeps up: every command is in it, what it shows exists, its links lead on.

That every block runs is the matter of tests/runs/test_docs_shell.py.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from tests.house.source import ROOT, Source, read

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
SHELLS = {"sh", "bash", "shell", "console", ""}


def pages() -> list[Source]:
    tops = [Source(name, (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "CONTRIBUTING.md")]
    return tops + read("docs", {".md"})


def command_tree() -> Any:
    assert (ROOT / "src/tunesmith/cli/main.py").exists(), "src/tunesmith/cli/main.py with its typer app is missing"
    return importlib.import_module("typer.main").get_command(importlib.import_module("tunesmith.cli.main").app)


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of everything that can be called."""
    inner = getattr(command, "commands", {})
    for name, child in inner.items():
        yield from leaves(child, (*words, name))
    if not inner:
        yield words, command


def undocumented(command: Any, texts: list[Source]) -> list[str]:
    text = re.sub(r"\s+", " ", " ".join(page.text for page in texts))
    names = [" ".join(("tunesmith", *words)) for words, _ in leaves(command)]
    return [name for name in names if not re.search(rf"{name}(?![\w-])", text)]


def commands_table(page: Source) -> set[str]:
    """The commands that have a row in the table of commands."""
    return set(re.findall(r"^\| `(tunesmith [a-z ]+?)`", page.text, re.M))


def shown(page: Source) -> list[str]:
    """Lines of shell blocks, and inline code, that call tunesmith."""
    blocks = [body for language, body in FENCE.findall(page.text) if language in SHELLS]
    lines = [line.strip().removeprefix("$ ") for body in blocks for line in body.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(tunesmith [^`\n]+)`", FENCE.sub("", page.text))
    return [
        line.removeprefix(".venv/bin/") for line in lines if line.removeprefix(".venv/bin/").startswith("tunesmith ")
    ]


def unknown(command: Any, line: str) -> str | None:
    """What a shown line calls that does not exist: a command, or an option of it."""
    words = shlex.split(line, comments=True)[1:]
    here, called = command, []
    while words and not words[0].startswith("-") and hasattr(here, "commands"):
        name = words.pop(0)
        if name in ("…", "...", "COMMAND"):
            return None
        if name not in here.commands and any(param.param_type_name == "argument" for param in here.params):
            break  # `tunesmith runs FOLDER`
        if name not in here.commands:
            return f"no command {' '.join([*called, name])!r}"
        called.append(name)
        here = here.commands[name]
    known = {"--help", *(option for param in here.params for option in (*param.opts, *param.secondary_opts))}
    wrong = [word.split("=")[0] for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{' '.join(called)!r} has no option {wrong[0]}" if wrong else None


def broken_links(page: Source, exists: Any) -> list[str]:
    """Relative links whose file is not there."""
    targets = re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", page.text))
    folder = PurePosixPath(page.path).parent
    return [t for t in targets if "://" not in t and not t.startswith("mailto:") and not exists(str(folder / t))]


def test_every_command_is_documented() -> None:
    tree = command_tree()
    assert len(list(leaves(tree))) > 3
    assert undocumented(tree, pages()) == []


def test_the_table_of_commands_in_the_readme_is_complete() -> None:
    [readme] = [page for page in pages() if page.path == "README.md"]
    names = {" ".join(("tunesmith", *words)) for words, _ in leaves(command_tree())}
    assert sorted(names - commands_table(readme)) == []


def test_shown_commands_exist() -> None:
    tree = command_tree()
    assert [f"{p.path}: {line}: {wrong}" for p in pages() for line in shown(p) if (wrong := unknown(tree, line))] == []


def test_links_lead_somewhere() -> None:
    wrong = [f"{p.path}: {link}" for p in pages() for link in broken_links(p, lambda path: (ROOT / path).exists())]
    assert wrong == []


def small_app() -> Any:
    typer = importlib.import_module("typer")
    app, models = typer.Typer(), typer.Typer()
    app.add_typer(models, name="models")

    @app.command()
    def quickstart(out: str = typer.Option("", "--out")) -> None: ...

    @models.command("fetch")
    def fetch(name: str) -> None: ...

    @models.command("list")
    def show() -> None: ...

    return importlib.import_module("typer.main").get_command(app)


def test_mutant_undocumented_command_is_found() -> None:
    page = Source("README.md", "`tunesmith models fetch x`, tunesmith models\nlist-all, and tunesmith quickstart.")
    assert undocumented(small_app(), [page]) == ["tunesmith models list"]


def test_mutant_command_without_a_row_is_found() -> None:
    page = Source("README.md", "| `tunesmith quickstart` | all |\n\nIn a line: `tunesmith models fetch`.")
    assert commands_table(page) == {"tunesmith quickstart"}


def test_mutant_shown_command_that_does_not_exist_is_found() -> None:
    app = small_app()
    text = "`tunesmith train x`\n```sh\n$ tunesmith quickstart --into y  # z\n.venv/bin/tunesmith models fetch a\n```\n"
    assert [unknown(app, line) for line in shown(Source("README.md", text))] == [
        "'quickstart' has no option --into",
        None,
        "no command 'train'",
    ]


def test_mutant_broken_link_is_found() -> None:
    page = Source("docs/a.md", "[x](b.md#y) [z](../README.md) [w](https://example.org)\n")
    assert broken_links(page, {"docs/../README.md"}.__contains__) == ["b.md"]
