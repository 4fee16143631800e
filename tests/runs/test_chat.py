"""`tunesmith chat` as a person and as a pipe use it."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runs import forked, served
from tests.runs.mistakes import typed

from tunesmith.opened import Opened, open_run
from tunesmith.types import Message

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.reply_run(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.label_run(tmp_path_factory.mktemp("labels"))


def answer(opened: Opened, who: str, text: str, **limits: int) -> str:
    return opened.complete(who, [[Message("user", text)]], opened.limits(**limits))[0].text


def test_a_pipe_gets_the_answer_and_nothing_else(run: Path) -> None:
    opened = open_run(run)
    text = "fox 7:\nwhat is it?"
    piped = served.called("chat", str(run), text=f"{text}\n")
    assert (piped.returncode, piped.stdout) == (0, answer(opened, "tuned", text) + "\n")
    once = served.invoked("chat", str(run), "--model", "base", "--max-tokens", "9", "--once", text)
    assert once.stdout == answer(opened, "base", text, max_new_tokens=9) + "\n"
    assert "cut off at 9 tokens" in once.stderr
    both = served.invoked("chat", str(run), "--against", "base", "--once", text)
    assert both.stdout == f"base:\n{answer(opened, 'base', text)}\ntuned:\n{answer(opened, 'tuned', text)}\n"
    said = served.invoked("chat", str(run), "--system", "Say dog.", "--once", text)
    wanted = opened.complete("tuned", [[Message("system", "Say dog."), Message("user", text)]])[0].text
    assert said.stdout == wanted + "\n"
    drawn = [served.invoked("chat", str(run), "--temperature", "2", "--seed", s, "--once", text).stdout for s in "112"]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_run_on_labels_says_how_likely_they_are(labels: Path) -> None:
    done = served.invoked("chat", str(labels), "--against", "base", text="the quick fox 3")
    shown = re.findall(r"(base|tuned):\n(\w+) (0\.\d\d|1\.00)  \((\w+) (\d\.\d\d), (\w+) (\d\.\d\d)\)\n", done.stdout)
    assert [row[0] for row in shown] == ["base", "tuned"], done.stdout
    for row in shown:
        assert {row[1], row[3], row[5]} == {"fox", "dog", "clips"}
        assert float(row[2]) + float(row[4]) + float(row[6]) == pytest.approx(1, abs=0.016)
        assert float(row[2]) >= float(row[4]) >= float(row[6])


def test_mistakes(run: Path, tmp_path: Path) -> None:
    for words, text, message in (
        ([str(run)], " \n", "the message is empty"),
        ([str(run), "--once", ""], "", "the message is empty"),
        ([str(run), "--model", "tune", "--once", "x"], "", "there is: base, tuned"),
        ([str(run), "--against", "gpt", "--once", "x"], "", "there is: base, tuned"),
        ([str(run), "--against", "base", "--model", "base", "--once", "x"], "", "is the model itself"),
        ([str(run.parent / "model"), "--against", "tuned", "--once", "x"], "", "there is: base"),
        ([str(tmp_path), "--once", "x"], "", "config.json"),
        ([str(run), "--temperature", "-1", "--once", "x"], "", "--temperature"),
        ([str(run), "--once", "fox dog " * 3000], "", "context is 2048"),
    ):
        done = served.invoked("chat", *words, text=text)
        assert done.exit_code != 0
        assert message in f"{done.exception} {done.output}", words
    told = typed(["chat", str(run), "--model", "tune", "--once", "x"])
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err


class Terminal:
    """A chat in a terminal of 100 columns."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process, self.end = process, end
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def until(self, *texts: str, timeout_s: float = 60) -> str:
        """What is shown up to and with the first of the texts, since the last call."""
        until = time.monotonic() + timeout_s
        while not (there := [t for t in texts if t in ESCAPE.sub("", self.seen)]):
            ready, _, _ = select.select([self.end], [], [], max(0, until - time.monotonic()))
            assert ready, f"{' or '.join(texts)} did not come: {self.seen!r}"
            self.seen += os.read(self.end, 4096).decode(errors="replace")
        plain = ESCAPE.sub("", self.seen)
        at = min(plain.index(t) + len(t) for t in there)
        self.seen = plain[at:]
        return plain[:at]


@contextmanager
def terminal(cwd: Path, *words: str) -> Iterator[Terminal]:
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    process = forked.started(
        "chat", *words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env, start_new_session=True,
        first=take_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, mine)
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def take_terminal() -> None:
    """Makes standard input the terminal of the new session, so that Ctrl-C typed into it is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_a_conversation_in_a_terminal(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    first = answer(opened, "tuned", "fox 7: what is it?")
    with terminal(tmp_path, str(run)) as screen:
        greeting = screen.until("> ")
        assert "/help" in greeting
        screen.type("fox 7: what is it?\n")
        assert "\n".join(first.split()) in "\n".join(screen.until("\n> ").split())
        screen.type('"""dog\nfox"""\n')
        screen.until("\n> ")
        screen.type("/save talk.jsonl\n")
        screen.until("added to talk.jsonl")
        screen.until("> ")
        screen.type("/help\n")
        assert "/system TEXT" in screen.until("\n> ")
        screen.type("/nonsense\n")
        assert "no command" in screen.until("\n> ")
        screen.type("/system Say dog.\n")
        assert "begins anew" in screen.until("\n> ")
        screen.type("/system\n")
        assert "Say dog." in screen.until("\n> ").removeprefix("/system")
        screen.type("/reset\n/save talk.jsonl\n")
        assert "nothing was said yet" in screen.until("nothing to save")
        screen.until("\n> ")
        time.sleep(0.5)  # readline shows its prompt before it listens, and a signal in between waits for a key
        screen.type("\x03")
        assert "/quit leaves" in screen.until("leaves")
        screen.until("> ")
        time.sleep(0.5)
        screen.type("\x04")
        assert screen.process.wait(timeout=20) == 0
    saved = json.loads((tmp_path / "talk.jsonl").read_text())
    said = [m for m in saved["messages"] if m["role"] != "system"]
    assert [m["content"] for m in said if m["role"] == "user"] == ["fox 7: what is it?", "dog\nfox"]
    wanted = opened.complete("tuned", [[Message(m["role"], m["content"]) for m in said[:3]]])[0].text
    assert [m["content"] for m in said if m["role"] == "assistant"] == [first, wanted], "it remembers what was said"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_ctrl_c_stops_an_answer_and_not_the_chat(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    with terminal(tmp_path, str(run), "--max-tokens", "1900", "--temperature", "2") as screen:
        screen.until("> ")
        for k in range(40):  # an answer may end by itself before it can be stopped: the next question has another
            time.sleep(0.5)
            screen.type(f"/reset\nfox {k}: what is it?\n")
            screen.until("it?\n")
            time.sleep(0.1 * 0.9**k)
            screen.type("\x03")
            if "neither the message" in screen.until(" kept", "leaves"):
                break
        screen.until("> ")
        screen.type("/save talk.jsonl\n")
        screen.until("nothing was said yet")
        screen.until("> ")
        screen.type("/quit\n")
        assert screen.process.wait(timeout=20) == 0
    with terminal(tmp_path, str(run), "--against", "base") as screen:
        screen.until("> ")
        screen.type("fox 7: what is it?\n")
        shown = screen.until("\n> ")
        assert "base" in shown
        assert "tuned" in shown
        screen.type("/save both.jsonl\n/quit\n")
        assert screen.process.wait(timeout=20) == 0
    rows = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["messages"][-1]["content"] == answer(opened, row["model"], "fox 7: what is it?")
    assert [row["model"] for row in rows] == ["base", "tuned"]
