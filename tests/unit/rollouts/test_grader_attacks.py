"""S8: what a graded text may try on the grader and on the machine, with the sandbox and without one."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.attempts import attempt

from tunesmith.evals import sandbox
from tunesmith.rollouts import coded, sandboxed
from tunesmith.rollouts.rewards import Summed, make_reward
from tunesmith.rollouts.sandboxed import Code, Failed, Sandboxed

needs_linux = pytest.mark.skipif(bool(sandbox.available()), reason=f"no sandbox here: {sandbox.available()}")
MIB = 2**20

# Three graders of one thing, whether the reply comes to 42: as data, in a process of its own, and by exec, which
# hands the reply the grader's own rights.
READS = "def score(output):\n    return float(output.strip() == '42')\n"
RUNS = (
    "import subprocess, sys\ndef score(output):\n"
    "    done = subprocess.run([sys.executable, '-c', output], capture_output=True, text=True, timeout=3)\n"
    "    return float(done.stdout.strip() == '42')\n"
)
EXECS = (
    "SEEN = []\ndef score(output):\n    space = {'SEEN': SEEN}\n    exec(output, space)\n"
    "    return float(len([1, 2]) == 2 and not SEEN and space.get('answer') == 42)\n"
)
TEXTS = {
    "a line like the answer": '{"value": 1}\n',
    "a message like the answer": '\x0e\x00\x00\x00{"said": "{\\"value\\": 1}"}',
    "an escape of JSON": '42"}], "value": 1, "x": [{"',
    "a template": "{{ 42 }}", "nothing": "", "a null": "42\x00", "code": "__import__('os')._exit(0)",
}  # fmt: skip
WRITES = (
    "import os\nfor fd in range(3, 99):\n    try:\n        os.write(fd, b'{\"value\": 1}\\n')\n    except OSError:\n"
    "        pass\n"
)
PROGRAMS = {
    "writes to every pipe": WRITES,
    "ends its parent": "import os\nos.kill(os.getppid(), 9)",
    "ends everything": "import os\nos.kill(-1, 9)",
    "opens its parent's pipes": (
        "import os\nfor n in range(99):\n    open(f'/proc/{os.getppid()}/fd/{n}', 'w').write('42')\nprint(42)"
    ),
    "reads its parent's memory": (
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0\nprint(42)"
    ),
    "reads files": "open('/etc/passwd').read()\nprint(42)",
    "reads the environment": "import os\nassert 'TUNESMITH_TEST_SECRET' in os.environ\nprint(42)",
    "uses the network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint(42)",
    "writes a file": "open('left', 'w').write('x')\nprint(42)",
    "makes a link": "import os\nos.symlink('/etc', 'left')\nprint(42)",
    "writes over Python": "import os\nopen(os.__file__, 'a').write('x')\nprint(42)",
    "takes memory": "x = bytearray(10**10)\nprint(42)",
    "never ends": "while True:\n    pass",
    "prints without end": "while True:\n    print('4' * 10**5)",
    "takes rights back": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\nprint(42)",
    "leaves its root": "import os\nos.chroot('.')\nprint(42)",
    "forks without end": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
}
PATCHES = {
    "ends the process": "import os\nos._exit(0)",
    "raises what ends a program": "raise SystemExit(0)",
    "patches a builtin": "import builtins\nbuiltins.len = lambda x: 99\nbuiltins.float = lambda x: 1.0",
    "changes what the grader keeps": "SEEN.append(1)",
    "patches the answer": "import json, os\njson.dumps = lambda *a: 'x'\nos.write = lambda *a: 0",
    "closes everything": "import os\nos.closerange(0, 99)",
    "starts what outlives it": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(99)\nanswer = 42",
    "stops its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nos.kill(1, signal.SIGSTOP)",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}


def reward_of(folder: Path, source: str, **keys: Any) -> Summed:
    path = folder / "mine.py"
    path.write_text(source)
    return make_reward([{"kind": "python", "file": f"{path}:score", "timeout_s": 2, **keys}])


def value(reward: Summed, text: str) -> float:
    return reward([attempt(text)])[0].value


@pytest.fixture
def port() -> Iterator[str]:
    os.environ["TUNESMITH_TEST_SECRET"] = "hidden"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.fixture(params=["isolated", "insisted"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the sandbox, and where there is none and the user insists."""
    if request.param == "insisted":
        monkeypatch.setattr(sandbox, "isolation", lambda *, insist: (False, sandbox.WEAK))
    elif sandbox.available():
        pytest.skip("no sandbox here")
    return str(request.param)


def test_a_text_is_data(tmp_path: Path, either: str) -> None:
    reward = reward_of(tmp_path, READS)
    for name, text in TEXTS.items():
        assert value(reward, text) == 0, name
    assert value(reward, " 42 ") == 1


@needs_linux
def test_a_program_that_a_grader_runs_cannot_grade_itself(tmp_path: Path, port: str) -> None:
    reward = reward_of(tmp_path, RUNS, memory_mib=256)
    assert value(reward, "print(6 * 7)") == 1
    for name, code in PROGRAMS.items():
        assert value(reward, code.replace("{port}", port)) == 0, name
        assert value(reward, "print(6 * 7)") == 1, f"after: {name}"


def test_what_one_text_breaks_is_whole_for_the_next(tmp_path: Path, either: str) -> None:
    """Even of a grader that hands its own rights to the text. The last three need the process space of the sandbox."""
    reward = reward_of(tmp_path, EXECS)
    names = list(PATCHES) if either == "isolated" else list(PATCHES)[:-3]
    for name in names:
        assert value(reward, PATCHES[name]) == float(name == "starts what outlives it"), name
        assert value(reward, "answer = 42") == 1, f"after: {name}"
        assert value(reward, "answer = 41") == 0, f"after: {name}"


def test_without_a_sandbox_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda *, insist: (False, sandbox.WEAK))
    reward = reward_of(tmp_path, EXECS, memory_mib=256)
    for name in ("uses the network", "takes memory", "never ends", "reads the environment"):
        code = PROGRAMS[name].replace("{port}", port).replace("print(42)", "answer = 42")
        assert value(reward, code) == 0, name
    assert value(reward, "answer = 42") == 1


def test_no_sandbox_no_grader_unless_insisted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(sandbox.NotIsolated, match="trust_local_code"):
        reward_of(tmp_path, READS)


def test_one_process_for_many_and_a_new_one_where_it_is_lost(either: str) -> None:
    box = Sandboxed(Code(READS, "mine.py", "score", 2.0, 256 * MIB, either == "isolated"))
    assert [box.ask(["42" if k % 2 else "x"]) for k in range(64)] == [0.0, 1.0] * 32
    assert box.num_starts == 1
    os.killpg(box.pipes.process.pid, 9)
    with pytest.raises(Failed, match="started again"):
        box.ask(["42"])
    assert (box.ask(["42"]), box.num_starts) == (1.0, 2)


def test_a_hang_costs_its_time_and_no_more(tmp_path: Path, either: str) -> None:
    reward = reward_of(tmp_path, EXECS, timeout_s=0.5)
    began = time.monotonic()
    [grade] = reward([attempt("while True:\n    pass")])
    assert grade.why == "python: no grade within 0.5 s"
    assert time.monotonic() - began < 5


def test_a_text_cannot_keep_a_pattern_busy() -> None:
    """Python's own matching cannot be ended from outside, and would take longer than there are people."""
    reward = make_reward([{"kind": "regex", "pattern": "(a+)+$", "timeout_s": 0.5}])
    found = reward([attempt("aaa"), attempt("a" * 60 + "b"), attempt("b")])
    assert [(g.value, g.is_graded) for g in found] == [(1, True), (0, False), (0, True)]
    assert found[1].why == "regex: no grade within 0.5 s"


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "^(a+)+$"}, {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}],
)
def test_nor_one_of_a_schema(monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]) -> None:
    monkeypatch.setattr(coded, "PATTERN_S", 0.5)
    reward = make_reward([{"kind": "json_schema", "schema": schema}])
    texts = ["aaa", "a" * 60 + "b", "b"]
    given = [json.dumps({text: 1} if "type" in schema else text) for text in texts]
    found = reward([attempt(text) for text in given])
    assert [(g.value, g.is_graded) for g in found] == [(1, True), (0, False), (0, True)]
    assert found[1].why == "json_schema: no grade within 0.5 s"


@needs_linux
def test_nothing_is_left_behind() -> None:
    box = Sandboxed(Code(EXECS + "# mark of this test", "left_behind.py", "score", 2.0, 256 * MIB, True))
    box.ask([PATCHES["starts what outlives it"]])
    assert any(map(is_ours, Path("/proc").glob("[0-9]*/cmdline")))
    box.pipes.close()
    until = time.monotonic() + 20
    while (left := any(map(is_ours, Path("/proc").glob("[0-9]*/cmdline")))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def is_ours(path: Path) -> bool:
    try:
        return "left_behind.py" in path.read_text()
    except OSError:
        return False


# -- mutants: the attacks can tell a sandbox from none --------------------------------------------------------------


def test_mutant_without_a_copy_for_each_text_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, either: str
) -> None:
    """The function is called in the process that lives on."""
    source = sandboxed.CHILD.read_text()
    mutant = source.replace(
        "    read_end, write_end = os.pipe()\n",
        '    return {"said": json.dumps(said(function, given, setup))}\n    read_end, write_end = os.pipe()\n',
    )
    assert mutant != source
    folder = tmp_path / "a" / "rollouts"
    folder.mkdir(parents=True)
    (folder / "grader_child.py").write_text(mutant)
    (folder.parent / "evals").symlink_to(sandboxed.CHILD.parents[1] / "evals")
    monkeypatch.setattr(sandboxed, "CHILD", folder / "grader_child.py")
    reward = reward_of(tmp_path, EXECS)
    assert value(reward, "answer = 42") == 1
    value(reward, PATCHES["changes what the grader keeps"])
    assert value(reward, "answer = 42") == 0


@needs_linux
def test_mutant_without_isolation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PROGRAMS["reads files"].replace("print(42)", "answer = 42")
    assert value(reward_of(tmp_path, EXECS), code) == 0
    monkeypatch.setattr(sandbox, "isolation", lambda *, insist: (False, sandbox.WEAK))
    assert value(reward_of(tmp_path, EXECS), code) == 1
