"""A tiny run that can be talked to, and the real `tunesmith serve` as a process over it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from click.testing import Result
from tests.runs import forked, tiny_runs
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


def reply_run(folder: Path) -> Path:
    return _run(folder, tiny_runs.reply_file(folder / "rows.jsonl"), "replies")


def label_run(folder: Path) -> Path:
    return _run(folder, tiny_runs.labelled_file(folder / "rows.jsonl"), "labels")


def _run(folder: Path, data: Path, name: str) -> Path:
    settings = tiny_runs.settings(tiny_runs.model_folder(folder / "model"), data, max_updates=2)
    # in 16 bits an answer may turn at a near tie on what is answered beside it
    settings |= {"export": ["adapter"], "precision": "float32"}
    run(parse(settings), yaml.safe_dump(settings), folder / name, Silent())
    return folder / name


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str  # ends with /v1
    said: list[str]  # lines of standard error

    @property
    def port(self) -> int:
        return int(re.findall(r":(\d+)/v1", self.url)[0])

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


@contextmanager
def server(
    target: Path, *options: str, key: str | None = None, started: Callable[..., Any] = forked.started
) -> Iterator[Server]:
    env = {k: v for k, v in os.environ.items() if k != "TUNESMITH_API_KEY"}
    if key is not None:
        env["TUNESMITH_API_KEY"] = key
    words = ["serve", str(target), "--port", "0", *options]
    process = started(*words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    said: list[str] = []
    url = ""
    for line in process.stderr:
        said.append(line)
        found = re.search(r"http://\S+/v1", line)
        if found:
            url = found[0]
            break
    assert url, said
    rest = process.stderr
    threading.Thread(target=lambda: said.extend(rest), daemon=True).start()
    try:
        yield Server(process, url, said)
    finally:
        process.kill()
        process.wait()


def called(*words: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, with `text` on its standard input."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with forked.started(*words, cwd=cwd, text=True, **pipes) as process:
        out, err = process.communicate(text, timeout=120)
    return subprocess.CompletedProcess(list(words), process.returncode, out, err)


def invoked(*words: str, text: str = "") -> Result:
    """The same within this process, which has loaded torch already. A mistake is the result's exception."""
    return CliRunner().invoke(app, list(words), input=text)
