"""Runs a page of the documentation from top to bottom, as a person who types what stands there.

Blocks are fenced and name their language. `file=NAME` behind the language writes the block into that file; commands of
`sh` blocks are typed one after the other, `tunesmith` in this process; Python runs in one namespace per page; YAML
without a file has to be a piece of a recipe, JSON has to be JSON. `text` is what a command printed, and is not run.
A block inside of an HTML comment is run too: what the page takes for granted and readers need not see.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.runs.mistakes import Said, typed

from tunesmith.recipe import Loader, parse

FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"\n\n    (\S[^\n]*)")
WRITTEN = ("csv", "json", "jsonl", "yaml", "text", "python")  # languages that may be a file's content
PLAIN = ("ls", "cat", "head", "cp", "mkdir", "mv", "rm")  # programs that are on every machine with a shell
NOT_MET = 3  # what a tiny model comes to is not what the page is about
# In front of what the page sets itself, which therefore wins.
SMALL = (
    "train.max_updates=2", "train.update_tokens=512", "train.micro_tokens=512", "train.watch=1", "evals.max_cases=12",
    "evals.max_dev_cases=4", "evals.few_shot=1", "evals.max_new_tokens=6", "evals.guards=off", "evals.explain_cases=0",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    language: str
    file: str | None
    body: str
    line: int  # of its opening fence


@dataclass(frozen=True)
class Step:
    """One command of a shell: its words, what goes in from a pipe and where its output goes."""

    text: str
    words: tuple[str, ...]
    piped: str | None = None  # the command before the |
    into: str | None = None
    code: int = 0  # as a comment behind it says: `# exit code 2`


@dataclass
class Done:
    """What became of a page's commands."""

    ran: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


class Broken(AssertionError):
    """A page that does not do what it shows."""


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        file = re.search(r"file=(\S+)", match[2])
        found.append(Block(match[1], file[1] if file else None, match[3], text.count("\n", 0, match.start()) + 1))
    return found


def unfenced(text: str) -> list[str]:
    """First lines of blocks that are made by indenting: these name no language, so nobody knows how to run them."""
    return INDENTED.findall(FENCE.sub("", text))


def lines(body: str) -> list[str]:
    """The commands of a shell block; a backslash at the end joins two lines."""
    found = [line.strip() for line in body.replace("\\\n", " ").splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def step_of(text: str) -> Step:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|>&")
    lexer.commenters, lexer.whitespace_split = "", True
    words = list(lexer)
    words = words[: words.index("#")] if "#" in words else words
    if {"&&", "&", "||", ">>"} & set(words) or words.count("|") > 1:
        raise Broken(f"{text}: one command a line; | and > are known")
    piped, into = None, None
    if ">" in words:
        at = words.index(">")
        words, into = words[:at], words[at + 1]
    if "|" in words:
        at = words.index("|")
        piped, words = shlex.join(words[:at]), words[at + 1 :]
    code = re.search(r"#.*\bexit code (\d+)", text)
    return Step(text, tuple(words), piped, into, int(code[1]) if code else 0)


class Reader:
    """Types what a page shows, in `folder`. `not_run`: (words that a line begins with, why it is left out)."""

    def __init__(self, folder: Path, not_run: Sequence[tuple[str, str]] = ()) -> None:
        self.folder = self.here = folder
        self.not_run = not_run
        self.names: dict[str, Any] = {"__name__": "page"}
        self.done = Done()

    def read(self, text: str, name: str) -> Done:
        if unfenced(text):
            raise Broken(f"{name}: a block without a language: {unfenced(text)[0]!r}; wanted ```sh … ``` around it")
        for block in blocks(text):
            try:
                os.chdir(self.here)
                self.block(block)
            except Broken as error:
                raise Broken(f"{name}:{block.line}: {error}") from error
        return self.done

    def block(self, block: Block) -> None:
        if block.file is not None:
            self.write(block)
        elif block.language == "sh":
            for line in lines(block.body):
                self.line(line)
        elif block.language == "python":
            self.python(block)
        elif block.language == "yaml":
            parse(yaml.load(block.body, Loader) or {})
        elif block.language == "json":
            json.loads(block.body)
        elif block.language == "powershell":
            for line in block.body.splitlines():
                self.line(f"powershell: {line}")
        elif block.language != "text":
            raise Broken(
                f"a block in {block.language or 'no language'}; known: sh, python, yaml, json, text, file=NAME"
            )

    def python(self, block: Block) -> None:
        if any(block.body.startswith(start) for start, _ in self.not_run):
            self.done.not_run.append(block.body.splitlines()[0])
        else:
            exec(compile(block.body, f"python block in line {block.line}", "exec"), self.names)
            self.done.ran.append(block.body.splitlines()[0])

    def write(self, block: Block) -> None:
        if block.language not in WRITTEN:
            raise Broken(f"{block.file} is written in {block.language}; known: {', '.join(WRITTEN)}")
        path = self.here / str(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.body, encoding="utf-8")

    def line(self, text: str) -> None:
        if any(text.startswith(start) for start, _ in self.not_run):
            self.done.not_run.append(text)
        else:
            self.step(step_of(text))

    def step(self, step: Step) -> None:
        program = step.words[0]
        if program == "cd":
            self.here = (self.here / step.words[1]).resolve()
            os.chdir(self.here)
            out = ""
        elif program == "export":
            raise Broken(f"{step.text}: a variable that would stay for the other pages; list it in NOT_RUN")
        elif program == "tunesmith":
            stdin = self.plain(step.piped) if step.piped else ""
            said = self.tunesmith(step, stdin)
            out = said.out
        elif program in (*PLAIN, "echo"):
            out = self.plain(shlex.join(step.words))
        else:
            raise Broken(f"{step.text}: {program} is neither known here nor listed in NOT_RUN with a reason")
        if step.into:
            (self.here / step.into).write_text(out, encoding="utf-8")
        self.done.ran.append(step.text)

    def plain(self, command: str) -> str:
        done = subprocess.run(["bash", "-c", command], cwd=self.here, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def tunesmith(self, step: Step, stdin: str) -> Said:
        said = typed(shrunk(list(step.words[1:])), stdin)
        os.chdir(self.here)
        may_say_no = said.code == NOT_MET and (step.words[1] == "gate" or "--require-better" in step.words)
        if said.code != step.code and not may_say_no:
            raise Broken(f"{step.text}: exit code {said.code}, wanted {step.code}: {said.text[-1500:]}")
        return said


def shrunk(words: list[str]) -> list[str]:
    """`tunesmith run` and `sweep` with few updates and cases, so that a page takes seconds; `curve` with one epoch."""
    if words[0] not in ("run", "sweep", "curve"):
        return words
    at = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    small = (*SMALL[1:], "train.epochs=1") if words[0] == "curve" else SMALL
    return [*words[:at], *(part for setting in small for part in ("--set", setting)), *words[at:]]
