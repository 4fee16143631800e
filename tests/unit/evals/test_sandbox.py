"""What a program may do to whoever runs it, tried: each of these must fail, and the machine must not notice."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunesmith.evals import sandbox
from tunesmith.evals.sandbox import Limits, NotIsolated, run_check

TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0\n"
RIGHT = "def add(a, b):\n    return a + b\n"
SHORT = Limits(wall_s=2.0, cpu_s=1, memory_bytes=256 * 2**20)
needs_linux = pytest.mark.skipif(bool(sandbox.available()), reason=f"no sandbox here: {sandbox.available()}")

ESCAPES = {
    "exits before the tests": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits when it is called": "import sys\ndef add(a, b):\n    sys.exit(0)",
    "a number that is equal to everything": (
        "class Any(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\ndef add(a, b):\n    return Any(99)"
    ),
    "an object that is equal to everything": (
        "class Any:\n    __eq__ = lambda *a: True\ndef add(a, b):\n    return Any()"
    ),
    "patched builtins": (
        "import builtins, json, operator\nbuiltins.AssertionError = None\nbuiltins.compile = lambda *a: None\n"
        "operator.eq = lambda *a: True\njson.loads = lambda *a: {'value': {'int': '0x5'}}\ndef add(a, b):\n    return 7"
    ),
    "writes the verdict itself": (
        "import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b'passed')\n    except OSError:\n"
        "        pass\n"
        "def add(a, b):\n    return 1"
    ),
    "a memory bomb": "x = bytearray(10**10)\n" + RIGHT,
    "a huge answer": "def add(a, b):\n    return 'x' * 10**7",
    "a full disk": "f = open('a', 'w')\nwhile True:\n    f.write('x' * 10**6)",
    "writes outside": "open('/tmp/tunesmith_escape', 'w').write('x')\n" + RIGHT,
    "writes over Python": "import os\nopen(os.__file__, 'a').write('x')\n" + RIGHT,
    "reads files": "open('/etc/passwd').read()\n" + RIGHT,
    "reads the processes": "import os\nos.listdir('/proc')[0]\n" + RIGHT,
    "uses the network": "import socket\nsocket.socket().connect(('127.0.0.1', {port}))\n" + RIGHT,
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nos.kill(-1, 9)",
    "takes rights back": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0\n" + RIGHT,
    "leaves its root": "import os\nos.chroot('.')\n" + RIGHT,
}


@pytest.fixture(scope="module")
def tried(request):
    """Every escape's outcome, several side by side."""
    import socket

    os.environ["TUNESMITH_TEST_SECRET"] = "hidden"
    with socket.socket() as listener, ThreadPoolExecutor(3) as pool:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        waiting = {
            name: pool.submit(run_check, code.replace("{port}", port), TESTS, SHORT) for name, code in ESCAPES.items()
        }
        yield {name: future.result() for name, future in waiting.items()}


@needs_linux
@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_fails(tried, name):
    assert not tried[name].passed, tried[name]
    assert not Path("/tmp/tunesmith_escape").exists()


@needs_linux
def test_right_programs_pass_and_wrong_ones_fail():
    assert run_check(RIGHT, TESTS, SHORT) == sandbox.Outcome(True, "passed")
    assert run_check(RIGHT.replace("+", "-"), TESTS, SHORT).why.startswith("AssertionError")
    assert "SyntaxError" in run_check("def add(a, b) return", TESTS, SHORT).why
    assert run_check("print('noise' * 1000)\n" + RIGHT, TESTS, SHORT).passed
    assert not run_check("", TESTS, SHORT).passed
    # its environment is empty, its folder is, and it may write there
    seen = (
        "import os\nfound = [dict(os.environ), os.listdir('.')]\nopen('a', 'w').write('x')\n"
        "def look():\n    return found"
    )
    assert run_check(seen, "assert look() == [{}, []]", SHORT).passed


@needs_linux
def test_what_tests_can_ask():
    code = (
        "from collections import namedtuple\nSIZE = 4\nP = namedtuple('P', 'x y')\ndef point():\n    return P(1, 2.5)\n"
        "def order(xs):\n    xs.sort()\ndef fails():\n    raise KeyError('gone')\ndef many():\n"
        "    return {'a': {1, 2}, (1, 2): None, 'b': b'z', 'c': 10**40, 'd': float('inf')}\n"
        "class Stack:\n    def __init__(self):\n        self.inside = []\n    def push(self, x):\n"
        "        self.inside.append(x)\n    def pop(self):\n        return self.inside.pop()\n"
    )
    tests = (
        "assert SIZE == 4\nassert point() == (1, 2.5)\nxs = [3, 1, 2]\norder(xs)\nassert xs == [1, 2, 3]\n"
        "try:\n    fails()\n    assert False, 'no error'\nexcept KeyError:\n    pass\n"
        "assert many() == {'a': {1, 2}, (1, 2): None, 'b': b'z', 'c': 10**40, 'd': math.inf}\n"
        "s = Stack()\ns.push(1)\ns.push([2])\nassert s.pop() == [2]\nassert s.inside == [1]\n"
        "def test_more():\n    assert point()[0] == 1\n"
    )
    assert run_check(code, tests, SHORT) == sandbox.Outcome(True, "passed")
    assert not run_check(code, "def test_more():\n    assert point()[0] == 2\n", SHORT).passed
    # a name of Python's own is Python's own, whatever the program calls it
    assert not run_check("def add(a, b):\n    return 0\ndef abs(x):\n    return 0\nclass math:\n    isclose = True",
                         "assert abs(add(2, 3) - 5) < 1", SHORT).passed  # fmt: skip


@needs_linux
def test_time_and_processes_end():
    began = time.monotonic()
    endless = ["while True:\n    pass", "def add(a, b):\n    while True:\n        pass",
               "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
               "import os\nos.setsid()\nwhile True:\n    os.write(1, b'y' * 10**6)"]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda code: run_check(code + "\n# mark of this test\n", TESTS, SHORT), endless))
    assert not any(outcome.passed for outcome in found)
    assert time.monotonic() - began < 20  # the machine may be busy; without a limit it would be for ever
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if is_ours(p)]
    assert not left, "a process was left behind"


def is_ours(path: Path) -> bool:
    try:
        return f'"wall_s": {SHORT.wall_s}' in path.read_text() and "sandbox_child" in path.read_text()
    except OSError:
        return False


def test_without_a_sandbox_it_is_refused_unless_insisted(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotIsolated, match=r"Linux namespaces, and this is darwin.*trust_local_code=true"):
        sandbox.isolation(insist=False)
    isolate, words = sandbox.isolation(insist=True)
    assert not isolate
    assert "could read and write your files" in words
    monkeypatch.undo()
    if os.name == "posix":
        assert run_check(RIGHT, TESTS, SHORT, isolate=False).passed
        assert "no network" in run_check("import socket\nsocket.socket()\n" + RIGHT, TESTS, SHORT, isolate=False).why


@needs_linux
def test_a_check_runs_once_for_the_same_program():
    seen: list[int] = []
    outcomes = sandbox.check_all([(RIGHT, TESTS), ("x = 1", TESTS), (RIGHT, TESTS)], SHORT, isolate=True,
                                 progress=seen.append)  # fmt: skip
    assert [o.passed for o in outcomes] == [True, False, True]
    assert seen == [1, 2]
