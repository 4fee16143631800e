"""Renders chat templates in a process of their own, within limits of time, memory and output.

A template is code of whoever made the model, and jinja's sandbox bounds neither its loops nor its texts. So each
template runs in one child (`template_child.py`), which gets plain data and gives back text. The seconds are of
processor time: a busy machine changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jinja2
import markupsafe

from tunesmith.errors import DataError, ModelError

CHILD = Path(__file__).with_name("template_child.py")
NUM_KEPT = 32  # templates whose process stays; a run has one or two
MOST_KEPT, ENTRY_BYTES = 2**24, 200  # of texts of late, and what each takes beside its letters


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one rendering."""

    cpu_s: float = 10.0
    memory_bytes: int = 2**30  # address space, Python's own included
    chars: int = 2**26  # of output


class Refused(DataError):
    """The template raised an error; the text is its own."""


@functools.lru_cache(maxsize=NUM_KEPT)
def renderer_of(template: str) -> TemplateProcess:
    return TemplateProcess(template, Limits())


class TemplateProcess:
    """One template and its process, which is started when it is needed, and again after it was ended by a limit or
    where this process was forked. A prompt is asked for once with each of its labels, by the plan and by the run: the
    texts of late are kept."""

    def __init__(self, template: str, limits: Limits) -> None:
        self._template, self._limits = template, limits
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._kept: dict[bytes, str] = {}
        self._kept_bytes = 0

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises Refused where the template says no, ModelError where it runs into a limit."""
        raw = json.dumps(variables, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(raw, digest_size=16).digest()
        with self._turn:
            if key in self._kept:
                return self._kept[key]
            if self._process is None or self._owner != os.getpid():
                self._start()
            found = self._ask(raw)
            if "text" in found:
                self._keep(key, str(found["text"]))
        if "error" in found:
            raise Refused(found["error"])
        refuse_limit(found)
        return str(found["text"])

    def render_all(self, asked: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The texts in one question; None where one has to be asked alone, as what it says is no text."""
        raw = json.dumps(asked, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
        with self._turn:
            if self._process is None or self._owner != os.getpid():
                self._start()
            found: list[str | None] = self._ask(raw).get("texts", [None] * len(asked))
        return found

    def _keep(self, key: bytes, text: str) -> None:
        """Not of a template that writes the date, which a server would go on saying."""
        if "strftime_now" in self._template:
            return
        self._kept_bytes += len(text) + ENTRY_BYTES
        if self._kept_bytes > MOST_KEPT:
            self._kept, self._kept_bytes = {}, len(text) + ENTRY_BYTES
        self._kept[key] = text

    def _start(self) -> None:
        limits, paths = self._limits, {str(Path(str(m.__file__)).parents[1]) for m in (jinja2, markupsafe)}
        setup = {
            "paths": sorted(paths), "cpu_s": limits.cpu_s, "bytes": limits.memory_bytes, "chars": limits.chars,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD), json.dumps(setup)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k in ("TZ", "SYSTEMROOT")}, start_new_session=True,
        )  # fmt: skip
        self._process, self._owner = process, os.getpid()
        weakref.finalize(self, ended, process, self._owner)
        found = self._ask(json.dumps(self._template).encode())
        if "error" in found:
            self._stop()
            raise ModelError(f"the model's chat template cannot render anything: {found['error']}")
        refuse_limit(found)

    def _ask(self, raw: bytes) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(len(raw).to_bytes(8, "big") + raw)
            process.stdin.flush()
            size = int.from_bytes(whole(process.stdout, 8), "big")
            if size > 8 * self._limits.chars + 2**20:
                raise EOFError
            return dict(json.loads(whole(process.stdout, size).decode("utf-8", "surrogatepass")))
        except (EOFError, BrokenPipeError):
            code = self._stop()
        except BaseException:  # Ctrl-C between question and answer: the next question would get this one's answer
            self._stop()
            raise
        if code == -getattr(signal, "SIGPROF", 0):
            return {"limit": f"{self._limits.cpu_s:g} s of processor time"}
        return {"limit": "it may (its process ended)"}

    def _stop(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        return ended(process, self._owner)


def refuse_limit(found: Mapping[str, Any]) -> None:
    if "limit" in found:
        raise ModelError(
            f"the model's chat template took more than {found['limit']} for one conversation, and was stopped. It is "
            "broken or hostile: use another model, or its template from where you trust it"
        )


def whole(stream: IO[bytes], num: int) -> bytes:
    found = stream.read(num)
    if len(found) < num:
        raise EOFError
    return found


def ended(process: subprocess.Popen[bytes], owner: int) -> int:
    """Ends a process that this one started, and says how it ended."""
    if owner != os.getpid():
        return 0  # a fork's copy: the process is the parent's
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue
    if process.poll() is None:
        try:
            return process.wait(0.2)  # it is ending by itself, and the reason is wanted
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
