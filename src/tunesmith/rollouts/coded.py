"""Rewards that run in other processes: a function of the user's own, unit tests on a program that the model wrote, and
patterns, which a text can make run for ever."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, InputError, RecipeError
from tunesmith.evals import sandbox
from tunesmith.evals.json_scores import Schema
from tunesmith.evals.passing import program
from tunesmith.rollouts import kinds
from tunesmith.rollouts.parts import Part, Ungradable, each, fact, facts_of, prompt_text
from tunesmith.rollouts.sandboxed import Code, Failed, Sandboxed, Streak
from tunesmith.types import Attempt, Grade, Task

MIB = 2**20
PATTERN_S = 2.0  # for one reply, of the patterns in a JSON schema
IMPORTS = "import jsonschema.validators, jsonschema_specifications, tunesmith.evals.json_scores"


def python(options: kinds.Python, name: str, *, insist: bool) -> Part:
    """`file.py:function`, called with (output, facts, prompt), the first two of these, or the first.

    `facts` are a mapping of the row's facts, or, where the data has a reply, that reply as text. The file may say
    RANGE = (least, most), as that of a metric may.
    """
    file, _, function = options.file.rpartition(":")
    path = Path(file).resolve()
    if not file or not path.is_file():
        raise InputError(f"the reward {name} is {options.file!r}; wanted FILE.py:FUNCTION, and there is no file {path}")
    code = Code(path.read_text(encoding="utf-8"), str(path), function, options.timeout_s, options.memory_mib * MIB,
                sandbox.isolation(insist=insist)[0])  # fmt: skip
    box = Sandboxed(code)
    low, high = range_of(box.facts["range"], path)
    num = box.facts["takes"]
    if not num:
        raise InputError(f"{path}: {function} must take (output, facts, prompt), (output, facts) or (output)")
    if box.facts["less_is_better"] and options.weight > 0:
        raise InputError(
            f"{path} says LESS_IS_BETTER, and of a reward more is better: give the part {name} a weight below 0"
        )

    def given(attempt: Attempt) -> list[Any]:
        return [attempt.text, told(attempt), prompt_text(attempt)][:num]

    return Part(name, low, high, asked(box, name, given, (low, high)))


def told(attempt: Attempt) -> Any:
    facts = facts_of(attempt)
    return dict(facts) if isinstance(attempt.example.target, Task) else facts["reference"]


def asked(box: Sandboxed, name: str, given: Callable[[Attempt], list[Any]], ends: kinds.Range) -> Any:
    """Grades by a function in a sandbox, whose numbers have to lie within `ends`."""
    streak, (low, high) = Streak(name), ends

    def case(attempt: Attempt) -> float:
        try:
            value = box.ask(given(attempt))
            if not low <= value <= high:
                raise Failed(f"returned {value:g}; wanted a number from {low:g} to {high:g}: RANGE = (least, most)")
        except Failed as error:
            streak.failed(str(error))
            raise Ungradable(str(error)) from None
        streak.passed()
        return value

    return each(case, low)


def regex(options: kinds.Regex, name: str) -> Part:
    try:
        re.compile(options.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(f"the pattern {options.pattern!r} of the reward {name} is none: {error}") from None
    find = "fullmatch" if options.whole else "search"
    source = (
        f"import re\nFIND = re.compile({options.pattern!r}).{find}\ndef fits(text):\n    return FIND(text) is not None"
    )
    return fitting(source, "pattern", name, options.timeout_s)


def json_schema(options: kinds.JsonSchema, name: str) -> Part:
    said: Any = options.schema
    if isinstance(said, str):
        try:
            said = json.loads(Path(said).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the schema {options.schema} of the reward {name} could not be read: {error}") from None
    where = options.schema if isinstance(options.schema, str) else f"of the reward {name}"
    schema, text = Schema(said, where), json.dumps(said, default=str)
    if '"pattern' not in text:  # nor "patternProperties"
        return Part(name, 0.0, 1.0, each(lambda attempt: schema.valid(attempt.text)))
    return fitting(SCHEMA.format(text=text, where=where), "schema", name, PATTERN_S, IMPORTS)


SCHEMA = """
import json
from tunesmith.evals.json_scores import Schema
SCHEMA = Schema(json.loads({text!r}), {where!r})
def fits(text):
    return SCHEMA.valid(text)
"""


def fitting(source: str, what: str, name: str, timeout_s: float, first: str = "") -> Part:
    """Whether `fits` of the source says so of a reply, in a process that can be ended, since a pattern such as (a+)+$
    never comes to an end on some texts. It runs no code but Python's own and ours, and needs no isolation."""
    box = Sandboxed(Code(source, f"the {what} of {name}", "fits", timeout_s, 256 * MIB, False, first))
    return Part(name, 0.0, 1.0, asked(box, name, lambda attempt: [attempt.text], (0.0, 1.0)))


SCORER = """
import json
import re
import sys
from unittest.mock import MagicMock
PLOTS = ("matplotlib", "mpl_toolkits")  # of a package of one task; they insist on a folder to write into
MODULES = "", ".pyplot", ".animation", ".collections", ".mplot3d"
sys.modules |= {part + name: MagicMock() for part in PLOTS for name in MODULES}
import reasoning_gym
def score(output, entry, tag):
    if tag:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", output, re.DOTALL)
        output = found[-1] if found else None
    entry = json.loads(entry) if isinstance(entry, str) else entry
    given = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
    return given(output if output is None else output.strip(), entry)
"""


def reasoning_gym(options: kinds.ReasoningGym, name: str, *, insist: bool) -> Part:
    """By the scorer of the task that the row's entry names."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise InputError(f"the reward {name} needs the reasoning-gym package: pip install 'tunesmith[gym]'")
    isolate = sandbox.isolation(insist=insist)[0]
    file = f"the scorer of {name}"
    box = Sandboxed(Code(SCORER, file, "score", options.timeout_s, options.memory_mib * MIB, isolate))
    tag = re.escape(options.tag)

    def given(attempt: Attempt) -> list[Any]:
        return [attempt.text, fact(attempt, options.entry), tag]

    return Part(name, 0.0, 1.0, asked(box, name, given, (0.0, 1.0)))


def range_of(said: str, path: Path) -> kinds.Range:
    try:
        low, high = (float(v) for v in ast.literal_eval(said))
    except (TypeError, ValueError, SyntaxError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{path}: RANGE is {said}; wanted the least and the most, such as (0, 1)")
    return low, high


def tests(options: kinds.Tests, name: str, *, insist: bool) -> Part:
    """1 where the program in the reply passes; it cannot reach the process in which its tests are."""
    isolate, _ = sandbox.isolation(insist=insist)
    limits = sandbox.Limits(
        wall_s=options.timeout_s, cpu_s=max(1, round(options.timeout_s)), memory_bytes=options.memory_mib * MIB
    )

    def grade(attempts: Sequence[Attempt]) -> list[Grade]:
        pairs = [(program(attempt.text), tests_of(attempt, options.tests)) for attempt in attempts]
        found = sandbox.check_all(pairs, limits, isolate=isolate, progress=lambda number: None)
        return [Grade(float(o.passed), why="" if o.passed else o.why) for o in found]

    return Part(name, 0.0, 1.0, grade)


def tests_of(attempt: Attempt, name: str) -> str:
    said = fact(attempt, name) if name else attempt.example.tests
    source = "\n".join(map(str, said)) if isinstance(said, list) else str(said)
    where = attempt.example.source or attempt.example.id
    if not source.strip():
        raise RecipeError(f"{where}: there are no tests; name the fact that holds them (tests: NAME)")
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: the tests are no Python: {error}") from None
    return source
