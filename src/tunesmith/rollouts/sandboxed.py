"""A function of the user's, in a process of its own that lives as long as it is used (`grader_child.py`).

What it is given goes through a pipe as data, what it says comes back as one number. It has no network, no files but
Python's own and the installed packages (read-only), no environment, and limits of time and memory, as programs have
that a model wrote (`evals/sandbox.py`).
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from tunesmith.errors import InputError, RunError
from tunesmith.evals.sandbox import Limits, NotIsolated

CHILD = Path(__file__).with_name("grader_child.py")
START_S, SLACK_S = 60.0, 5.0  # to define the function; what its process may take beyond the limit of one reply
MOST_BYTES = 1 << 20  # of what is given for one reply


class Failed(Exception):
    """One reply was not graded: the function raised, hung, or ended its process."""


@dataclass(frozen=True, slots=True)
class Code:
    """What runs in there."""

    source: str
    file: str  # as errors name it
    function: str
    timeout_s: float  # for one reply
    memory_bytes: int
    isolate: bool
    first: str = ""  # of our own, run while there still are rights to read the files that it imports
    is_data: bool = False  # the function returns data (`Sandboxed.data`), else a number


class Sandboxed:
    """Started at once, so that a file that cannot be run is refused before anything else; started again when it was
    lost."""

    def __init__(self, code: Code) -> None:
        self.code, self.lock = code, Lock()
        self.num_starts = 0
        self._start()

    def _start(self) -> None:
        self.num_starts += 1
        self.pipes = Pipes(self.code)
        found = self.pipes.receive(START_S)
        if found is None:
            trouble = self.pipes.close()
            if trouble:
                raise NotIsolated(trouble)
            raise InputError(f"{self.code.file}: cannot be run: its process ended, or took more than {START_S:g} s")
        if "raised" in found:
            hint = (
                " In the sandbox there are Python's own library and the installed packages, and no files: put what it "
                "needs into this one file."
                if "Error: No module" in found["raised"] or "FileNotFound" in found["raised"]
                else ""
            )
            raise InputError(f"{self.code.file}: cannot be run: {found['raised']}.{hint}")
        if "missing" in found:
            there = ", ".join(found["missing"]) or "none"
            raise InputError(f"{self.code.file} has no function {self.code.function!r}; it has: {there}")
        self.facts: dict[str, Any] = found

    def ask(self, given: Sequence[Any]) -> float:
        """What the function returns for these. Failed where it gives no number."""
        return number_in(self._said(given), self.code.timeout_s)

    def data(self, given: Sequence[Any]) -> Any:
        """The same of a function that returns data: what JSON has."""
        found = said_in(self._said(given), self.code.timeout_s, "answer")
        if "data" not in found:
            raise Failed(str(found.get("failed", "nothing was returned"))[:400])
        return found["data"]

    def _said(self, given: Sequence[Any]) -> Any:
        data = json.dumps(list(given), default=str).encode("utf-8", "surrogatepass")
        if len(data) > MOST_BYTES:
            raise Failed(f"the reply and its facts are more than {MOST_BYTES} bytes")
        with self.lock:
            found = None
            if self.pipes.send(data, SLACK_S):
                found = self.pipes.receive(self.code.timeout_s + SLACK_S)
            if found is None:
                self.pipes.close()
                self._start()
                raise Failed("the grader's process was lost, and started again")
        return found.get("said")


def said_in(said: Any, timeout_s: float, what: str) -> dict[str, Any]:
    """A copy's line, which may be anything, as an object. Failed where it is none."""
    if said is None:
        raise Failed(f"no {what} within {timeout_s:g} s")
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        raise Failed(f"its process ended, and there is no {what}") from None
    return found if isinstance(found, dict) else {}


def number_in(said: Any, timeout_s: float) -> float:
    """The number of a copy's line. Failed where there is none."""
    found = said_in(said, timeout_s, "grade")
    value = found.get("value")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise Failed(str(found.get("failed", "no grade"))[:400])


class Pipes:
    """The process and the two pipes to it. It ends when `life` is closed, also because this process ended."""

    def __init__(self, code: Code) -> None:
        paths = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
        limits = replace(Limits(memory_bytes=code.memory_bytes), file_bytes=0)
        asked, answers, life = os.pipe(), os.pipe(), os.pipe()
        fds = (asked[0], answers[1])
        self.folder = tempfile.TemporaryDirectory(prefix="grader_", ignore_cleanup_errors=True)
        setup = {
            "file": code.file, "function": code.function, "timeout_s": code.timeout_s, "fds": fds, "lifeline": life[0],
            "limits": {**asdict(limits), "cpu_s": None}, "root": self.folder.name if code.isolate else None,
            "packages": [p for p in dict.fromkeys(paths) if os.path.isdir(p)], "wall_s": math.inf, "pause_s": 0.1,
            "first": code.first, "path": sys.path if code.first else (), "is_data": code.is_data,
        }  # fmt: skip
        try:
            with tempfile.TemporaryFile() as given:
                given.write(code.source.encode("utf-8", "surrogatepass"))
                given.seek(0)
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(CHILD), json.dumps(setup)],
                    stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.folder.name, env={},
                    pass_fds=(*fds, life[0]), start_new_session=True,
                )  # fmt: skip
        finally:
            for fd in (*fds, life[0]):
                os.close(fd)
        self.to, self.from_ = asked[1], answers[0]
        os.set_blocking(self.to, False)
        self.closing = weakref.finalize(self, shut, (self.to, self.from_, life[1]), self.process, self.folder)

    def close(self) -> str:
        """Ends the process; what it said when its isolation failed, else ""."""
        return self.closing() or ""

    def send(self, data: bytes, seconds: float) -> bool:
        until, left = time.monotonic() + seconds, struct.pack("<I", len(data)) + data
        while left:
            _, ready, _ = select.select([], [self.to], [], max(0.0, until - time.monotonic()))
            if not ready:
                return False
            try:
                left = left[os.write(self.to, left) :]
            except BrokenPipeError:
                return False
        return True

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None where the process is gone or too slow. What writes it is our own code."""
        until = time.monotonic() + seconds
        head = self._exactly(4, until)
        data = self._exactly(struct.unpack("<I", head)[0], until) if head else None
        found = json.loads(data) if data else None
        return found if isinstance(found, dict) else None

    def _exactly(self, num: int, until: float) -> bytes | None:
        found = b""
        while len(found) < num:
            ready, _, _ = select.select([self.from_], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self.from_, num - len(found)) if ready else b""
            if not part:
                return None
            found += part
        return found


def shut(fds: Sequence[int], process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> str:
    for fd in fds:
        os.close(fd)
    try:
        _, said = process.communicate(timeout=SLACK_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        _, said = process.communicate()
    folder.cleanup()
    return said.decode("utf-8", "replace").strip()[-300:]


class Streak:
    """Counts what a grader could not grade in a row: one reply can be bad, all of them are not."""

    MOST = 32

    def __init__(self, name: str, *, grades: bool = True) -> None:
        self.name, self.num, self.grades = name, 0, grades

    def passed(self) -> None:
        self.num = 0

    def failed(self, why: str) -> None:
        self.num += 1
        if self.num >= self.MOST and not self.grades:
            raise RunError(f"{self.name} failed {self.num} times in a row, the last time: {why}. Mend it")
        if self.num >= self.MOST:
            raise RunError(
                f"the reward {self.name} could not grade {self.num} replies in a row, the last time: {why}. It is the "
                "grader that fails, and not the replies: mend it, and try it with `tunesmith grade`"
            )
