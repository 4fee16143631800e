"""The keys of each kind of reward, as they stand in a recipe's list `reward:`, and their strict reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from tunesmith.errors import RecipeError, did_you_mean

RUBRIC = (
    "A good reply does what the prompt asks: what it says is right, nothing that was asked for is missing, and nothing "
    "is made up. Being longer, politer or better laid out is no merit by itself."
)
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Of every kind."""

    kind: str
    weight: float = 1.0  # its value counts so often in the sum; below 0 it is a penalty
    name: str = ""  # in formulas, tables and plots; left out: the kind
    clip: Range | None = None  # [least, most]: values beyond are cut to these before they are weighed


@dataclass(frozen=True, slots=True, kw_only=True)
class Python(Common):
    """A function of your own, in a sandbox: file.py:function."""

    file: str
    timeout_s: float = 10.0  # seconds for one reply
    memory_mib: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression(Common):
    """Arithmetic over the facts that are numbers, num_tokens, num_words, num_chars, stopped, and the parts' values."""

    expression: str
    clip: Range = (0.0, 1.0)  # always cut: what an expression can come to is not known beforehand
    parts: tuple[Mapping[str, Any], ...] = ()  # rewards by name, whose weights do not count here


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Common):
    """1 where the reply is the reference, runs of white space as one."""

    reference: str = ""  # the fact that holds it; left out: the reply of the data, or the only fact
    ignore_case: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Numeric(Common):
    """1 where the last number of the reply, or the marked one, is the reference's."""

    reference: str = ""
    tolerance: float = 1e-6  # as a share of the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex(Common):
    """1 where the pattern is found in the reply."""

    pattern: str
    whole: bool = False  # true: it has to fit the whole reply
    timeout_s: float = 2.0  # seconds for one reply: there are patterns that some texts keep busy for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema(Common):
    """1 where the reply is JSON that the schema takes."""

    schema: str | dict[str, Any]  # a file, or written here


@dataclass(frozen=True, slots=True, kw_only=True)
class Tests(Common):
    """1 where the program in the reply passes the tests, which run apart from it."""

    tests: str = ""  # the fact that holds them; left out: data.columns.tests
    timeout_s: float = 10.0
    memory_mib: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGym(Common):
    """What the scorer of a reasoning-gym task gives, 0 to 1. It runs in a sandbox: some work out what a reply says."""

    entry: str = "entry"  # the fact that holds the task's entry
    tag: str = ""  # the answer stands in <tag>…</tag>, and a reply without has none; left out: it is the whole reply
    timeout_s: float = 10.0
    memory_mib: int = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity(Common):
    """How like the reply is to the reference, 0 to 1."""

    by: Literal["fuzzy_match", "bleu", "gleu", "chrf", "token_f1", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
                "rouge_5", "rouge_l"] = "rouge_l"  # fmt: skip
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(Common):
    """0 up to `most` less `buffer`, from there on a straight line down to -1 at `most` (DAPO, eq. 13)."""

    most: int
    buffer: int
    unit: Literal["tokens", "words", "chars"] = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Common):
    """A model behind an OpenAI-compatible address scores the reply by a rubric."""

    endpoint: str
    model: str
    rubric: str = RUBRIC
    range: Range = (0.0, 10.0)  # of the scores that are asked for; the reward is the score as a share of it, 0 to 1
    api_key_env: str | None = None  # environment variable that holds the key
    timeout_s: float = 120.0  # seconds for one question, tries again included
    side_by_side: int = 4  # questions asked at once


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel(Common):
    """The score that a reward model gives, as it learned it from pairs (task.name: reward)."""

    model: str  # its folder, such as runs/reward/merged, or its name
    clip: Range = (-10.0, 10.0)  # always cut: a score has no ends of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAI(Common):
    """A grader object as OpenAI's reinforcement fine-tuning defines it, from a file or written here."""

    grader: str | dict[str, Any]
    endpoint: str | None = None  # for score_model and label_model: who answers
    model: str | None = None  # the name that the endpoint knows, in place of the one in the object
    api_key_env: str | None = None
    timeout_s: float = 120.0  # seconds for one question or one reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum(Common):
    """Parts of its own, weighed and added up, so that the sum can be clipped."""

    parts: tuple[Mapping[str, Any], ...]


KINDS: dict[str, type[Common]] = {
    "python": Python, "expression": Expression, "exact": Exact, "numeric": Numeric, "regex": Regex,
    "json_schema": JsonSchema, "tests": Tests, "similarity": Similarity, "length": Length, "judge": Judge,
    "reasoning_gym": ReasoningGym, "reward_model": RewardModel, "openai": OpenAI, "sum": Sum,
}  # fmt: skip


def read(said: Sequence[Mapping[str, Any]], where: str = "reward") -> list[Common]:
    """The parts of a list of a recipe, each name once. RecipeError names the key, what was found and what was
    wanted."""
    if isinstance(said, Mapping) or not isinstance(said, Sequence) or isinstance(said, str):
        raise RecipeError(f"{where} is {said!r:.80}; wanted a list of parts, each with its kind")
    found = [part(one, f"{where}[{number}]") for number, one in enumerate(said)]
    names = [options.name or options.kind for options in found]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{where} has {names.count(name)} parts called {name}; give each a name of its own: name")
    return found


def part(said: Mapping[str, Any], where: str) -> Common:
    if not isinstance(said, Mapping) or said.get("kind") not in KINDS:
        kind = said.get("kind") if isinstance(said, Mapping) else said
        raise RecipeError(
            f"{where}.kind is {kind!r:.60}; wanted one of {', '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}"
        )
    options = KINDS[said["kind"]]
    known = [field.name for field in fields(options)]
    for key in said:
        if key not in known:
            raise RecipeError(
                f"unknown key {where}.{key}: a reward of kind {said['kind']} has {', '.join(known)}."
                f"{did_you_mean(str(key), known)}"
            )
    try:
        found = TypeAdapter(options).validate_python(dict(said))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"][:1])
        if first["type"] == "missing":
            raise RecipeError(f"{where}.{key} is missing: a reward of kind {said['kind']} needs it") from None
        raise RecipeError(f"{where}.{key} is {first['input']!r:.80}; wanted: {first['msg']}") from None
    check(found, where)
    return found


def check(found: Common, where: str) -> None:
    """Values that are of the right type and still cannot be."""
    ends = {"clip": found.clip, "range": found.range if isinstance(found, Judge) else None}
    for key, pair in ends.items():
        if pair is not None and not pair[0] < pair[1]:
            raise RecipeError(f"{where}.{key} is {list(pair)}; wanted the least first and then the most")
    above_0 = ("timeout_s", "memory_mib", "side_by_side", "most", "buffer")
    for key in (f.name for f in fields(found) if f.name in above_0):
        if not getattr(found, key) > 0:
            raise RecipeError(f"{where}.{key} is {getattr(found, key)}; wanted a number above 0")
    if isinstance(found, Numeric) and not 0 <= found.tolerance < float("inf"):
        raise RecipeError(f"{where}.tolerance is {found.tolerance}; wanted a share of the reference, 0 or above")
    if isinstance(found, Length) and found.buffer > found.most:
        raise RecipeError(f"{where}.buffer is {found.buffer}, more than {where}.most, which is {found.most}")
    if found.weight == 0 or found.weight != found.weight or abs(found.weight) == float("inf"):
        raise RecipeError(f"{where}.weight is {found.weight}; at 0 the part does nothing: leave it out")
    if isinstance(found, (Sum, Expression)):
        read(found.parts, f"{where}.parts")
    if isinstance(found, Sum) and not found.parts:
        raise RecipeError(f"{where}.parts is empty; wanted the parts of the sum")
