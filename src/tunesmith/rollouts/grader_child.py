"""The inside of a grader's process: run by `sandboxed.py` as a script of its own (python -I -S), never imported.

The process defines the user's function once. For each reply it makes a copy of itself, which calls the function, says a
number and is gone with all that it started. So what grading one reply did (a patched module, a changed list, a process
left behind) is not there for the next one, and what ends the copy does not end the grader. The pipes to and from
tunesmith are closed in the copy: it has a pipe of its own, of which one short line is read.
"""

# mypy: allow-untyped-defs

import builtins
import contextlib
import inspect
import json
import math
import os
import select
import signal
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "evals"))
from sandbox_child import entered, receive, resource, send

sys.path.pop(0)  # the graders of users find no module of ours

MOST_SAID, MOST_DATA = 4096, 1 << 18  # bytes of a copy's line: with a number, with data
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def told(error, file):
    """An error in one line, with the line of the user's own file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    at = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {str(error)[:300]}{at}"


def shape(function):
    """With how many arguments it can be called, the most first; 0 where with neither of 3, 2, 1."""
    for number in (3, 2, 1):
        try:
            inspect.signature(function).bind(*[""] * number)
        except TypeError:
            continue
        return number
    return 0


def defined(source, setup):
    """(the function or None, what tunesmith is told of the file)."""
    space: dict = {"__name__": "grader", "__builtins__": builtins, "__file__": setup["file"]}
    try:
        exec(compile(source, setup["file"], "exec"), space)
    except BaseException as error:
        return None, {"raised": told(error, setup["file"])}
    function = space.get(setup["function"])
    if not inspect.isfunction(function):
        names = [n for n, v in space.items() if inspect.isfunction(v) and not n.startswith("_")]
        return None, {"missing": names}
    return function, {
        "takes": shape(function),
        "range": repr(space.get("RANGE", (0, 1))),
        "less_is_better": bool(space.get("LESS_IS_BETTER", False)),
    }


def said(function, given, setup):
    """In the copy: the line that it writes."""
    try:
        found = function(*given)
        if setup["is_data"]:
            size = len(json.dumps(found))
            return {"data": found} if size < MOST_DATA - 64 else {"failed": f"{size} bytes; wanted {MOST_DATA} at most"}
        if not (isinstance(found, (int, float)) or hasattr(found, "__float__")):
            return {"failed": f"returned {type(found).__name__} {found!r:.80}; wanted a number"}
        return {"value": float(found)}
    except BaseException as error:
        return {"failed": told(error, setup["file"])}


def graded(function, given, setup):
    """One reply: what its copy said, as a text that may be anything."""
    read_end, write_end = os.pipe()
    copy = os.fork()
    if not copy:
        try:
            for fd in (read_end, *setup["fds"]):
                os.close(fd)
            if setup["root"] is None:
                os.setsid()
            if resource is not None:
                most = math.ceil(setup["timeout_s"]) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (most, most))
            os.write(write_end, (json.dumps(said(function, given, setup)) + "\n").encode()[: most_of(setup)])
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        line = first_line(read_end, setup["timeout_s"], most_of(setup))
    finally:
        os.close(read_end)
        sweep(copy, is_alone=setup["root"] is not None)
    return {"said": line}


def most_of(setup):
    return MOST_DATA if setup["is_data"] else MOST_SAID


def first_line(fd, seconds, most):
    """None where it takes too long; "" where it ends without one."""
    until, found = time.monotonic() + seconds, b""
    while b"\n" not in found and len(found) < most:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, MOST_SAID)
        if not part:
            break
        found += part
    return found.decode("utf-8", "replace").partition("\n")[0]


def sweep(copy, *, is_alone):
    """Ends the copy and what it started: in a process space of our own, all there is but us."""
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or not yet the leader of its group
            os.kill(-1, signal.SIGKILL) if is_alone else os.killpg(copy, signal.SIGKILL)
        try:
            if not is_alone:
                os.kill(copy, signal.SIGKILL)
                os.waitpid(copy, 0)
                return
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return


def main():
    setup = json.loads(sys.argv[1])
    sys.path += setup["path"]
    exec(setup["first"], {})
    source = entered(setup)
    if source is None:
        return
    os.environ.update(dict.fromkeys(THREADS, "1"))  # a library's threads would run into the limit of processes
    sys.path += setup["packages"]
    sys.executable = sys._base_executable  # type: ignore[attr-defined]  # a virtual environment's own is not in here
    asked_fd, answer_fd = setup["fds"]
    function, facts = defined(source, setup)
    send(answer_fd, facts)
    while function is not None:
        try:
            asked = receive(asked_fd)
        except EOFError:
            break
        send(answer_fd, graded(function, asked, setup))
    os._exit(0)


if __name__ == "__main__":
    main()
