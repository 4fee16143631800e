"""Runs programs that a model wrote against unit tests, where they can do no harm and cannot cheat.

Every check is two processes (`sandbox_child.py`), each without network, environment, capabilities and files but
Python's own (read-only) and an empty folder in memory, within limits of time, memory, processes and output. Linux
namespaces do it, without rights of root. Where they are not to be had the check is refused, unless the user insists:
then limits, an empty environment and Python's own sockets switched off are all there is, and what is reported says so.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.errors import InputError

CHILD = Path(__file__).with_name("sandbox_child.py")
MAX_WORKERS = 4  # checks side by side; each is two processes
STRONG = "no network, no files but Python's own (read-only), no environment, a process space of its own"
WEAK = (
    "limits of time, memory and processes and an empty environment ONLY: the programs could read and write your files "
    "and use the network by ways that Python's socket module does not control"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process of a check."""

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 512 * 2**20  # address space
    file_bytes: int = 16 * 2**20  # of a file, and of all files together
    processes: int = 8
    open_files: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    passed: bool
    why: str  # "passed", or what went wrong first


class NotIsolated(InputError):
    """No sandbox can be had here, and the user did not insist."""


def run_check(program: str, tests: str, limits: Limits, *, isolate: bool = True) -> Outcome:
    """Whether the program passes the tests. Never raises for what the program does; NotIsolated where the isolation
    could not be set up."""
    with tempfile.TemporaryDirectory(prefix="check_", ignore_cleanup_errors=True) as folder:
        roots = [os.path.join(folder, role) for role in ("program", "tests")]
        for root in roots:
            os.mkdir(root)
        asked, answers, result = os.pipe(), os.pipe(), os.pipe()
        ends = {"program": (asked[0], answers[1]), "tests": (asked[1], answers[0], result[1])}
        life, running = os.pipe(), []
        try:
            for (role, fds), root, source in zip(ends.items(), roots, (program, tests)):
                running.append(start(role, fds, source, life, (root, limits, isolate)))
        finally:
            for fd in (*asked, *answers, result[1], life[0]):
                os.close(fd)
        try:
            said = read_within(result[0], limits.wall_s)
        finally:
            os.close(life[1])  # ends both, whatever they do
            os.close(result[0])
            troubles = [end(process, limits.wall_s) for process in running]
    for trouble in filter(None, troubles):
        raise NotIsolated(trouble)
    if said is None:
        return Outcome(False, f"no result within {limits.wall_s:g} s")
    return Outcome(said == "passed", said or "the tests ended without a result")


def start(
    role: str, fds: Sequence[int], source: str, life: tuple[int, int], where: tuple[str, Limits, bool]
) -> subprocess.Popen[bytes]:
    root, limits, isolate = where
    setup = {
        "role": role, "fds": fds, "lifeline": life[0], "wall_s": limits.wall_s, "limits": asdict(limits),
        "root": root if isolate else None, "packages": (), "pause_s": 0.005,
    }  # fmt: skip
    with tempfile.TemporaryFile() as given:
        given.write(source.encode("utf-8", "surrogatepass"))
        given.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD), json.dumps(setup)],
            stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=root, env={},
            pass_fds=(*fds, life[0]), start_new_session=True,
        )  # fmt: skip


def read_within(fd: int, seconds: float) -> str | None:
    """What is written until the other side closes; None where that takes too long. At most 1000 bytes are written."""
    until, found = time.monotonic() + seconds, b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 4096)
        if not part:
            return found.decode("utf-8", "replace")
        found += part


def end(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Wait for a watcher, which ends what it watches; what it said when its isolation failed, else ""."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        _, said = process.communicate()
    return said.decode("utf-8", "replace").strip()[-300:]


def available() -> str:
    """ "" where the sandbox works on this machine, else why not. Tried, not guessed."""
    if not sys.platform.startswith("linux"):
        return f"it is built on Linux namespaces, and this is {sys.platform}"
    try:
        found = run_check("def one():\n    return 1\n", "assert one() == 1\n", Limits())
    except NotIsolated as error:
        return str(error)
    return "" if found.passed else found.why


def isolation(*, insist: bool) -> tuple[bool, str]:
    """(whether checks are isolated, in words for the plan). Raises where they are not and the user did not insist."""
    trouble = available()
    if not trouble:
        return True, STRONG
    if not insist or os.name != "posix":
        raise NotIsolated(
            f"programs that a model writes, and graders of its replies, are not run here: no sandbox can be had "
            f"({trouble}). Run on a Linux machine "
            "that allows user namespaces (as root, or with kernel.unprivileged_userns_clone=1)"
            + (", or insist with --set evals.code.trust_local_code=true, on a machine that may be lost."
               if os.name == "posix" else ".")
        )  # fmt: skip
    return False, WEAK


def check_all(
    pairs: Sequence[tuple[str, str]], limits: Limits, *, isolate: bool, progress: Callable[[int], None]
) -> list[Outcome]:
    """Of (program, tests), in order; the same pair is run once."""
    found: dict[tuple[str, str], Outcome] = {}
    fresh = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        outcomes = pool.map(lambda pair: run_check(pair[0], pair[1], limits, isolate=isolate), fresh)
        for number, (pair, outcome) in enumerate(zip(fresh, outcomes), 1):
            found[pair] = outcome
            progress(number)
    return [found[pair] for pair in pairs]
