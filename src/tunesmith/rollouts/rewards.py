"""From a recipe's list of parts to a reward: sampled replies in, grades out.

reward = make_reward([{"kind": "numeric"}, {"kind": "length", "most": 256, "buffer": 64, "weight": 0.2}])
grades = reward(attempts)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RecipeError, RunError
from tunesmith.files import sha256_file
from tunesmith.models.catalogue import locate
from tunesmith.models.load import weights_digest
from tunesmith.rollouts import asked, coded, graders, kinds, matches
from tunesmith.rollouts.combined import clipped, computed, summed
from tunesmith.rollouts.formula import Formula
from tunesmith.rollouts.parts import Part
from tunesmith.rollouts.reward_model import reward_model
from tunesmith.types import Attempt, Grade


@dataclass(frozen=True, slots=True)
class Summed:
    """The reward of a run: its parts, weighed and added up. What is opened for it ends with it."""

    part: Part
    files: Mapping[str, str]  # that the parts name -> SHA-256, by which a changed reward is known; stands in the lock

    @property
    def low(self) -> float:
        """The least that a reply can get."""
        return self.part.low

    @property
    def high(self) -> float:
        return self.part.high

    def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
        found = self.part.grade(attempts)
        for grade, attempt in zip(found, attempts, strict=True):
            if not math.isfinite(grade.value):
                raise RunError(f"the reward of {attempt.example.source or attempt.example.id} is {grade.value}")
        return found


# where an environment gives all there is
NO_REWARD = Summed(Part("reward", 0.0, 0.0, lambda attempts: [Grade(0.0) for _ in attempts]), {})


@dataclass(frozen=True, slots=True)
class Means:
    """What rewards may do on this machine."""

    insist: bool = False  # run code where no sandbox can be had: evals.code.trust_local_code
    kept: Path | None = None  # file in which the answers of judges are kept; None: in memory only


def make_reward(said: Sequence[Mapping[str, Any]], means: Means | None = None) -> Summed:
    """Everything that the parts need is opened and tried here: files, schemas, sandboxes. RecipeError or InputError
    where it cannot be had."""
    if not said:
        raise RecipeError("reward is empty: there is nothing to grade replies by")
    options = kinds.read(said)
    return Summed(sum_of(options, "reward", means or Means()), {str(p): digest_of(p) for p in files_of(options)})


def digest_of(path: Path) -> str:
    """Of a file, or of the weights of a reward model."""
    return weights_digest(path) if path.is_dir() else sha256_file(path)


def files_of(options: Sequence[kinds.Common]) -> list[Path]:
    """The files and the models that parts, and parts of parts, name."""
    found = []
    for one in options:
        match one:
            case kinds.Python():
                found.append(Path(one.file.rpartition(":")[0]))
            case kinds.JsonSchema(schema=str(name)) | kinds.OpenAI(grader=str(name)):
                found.append(Path(name))
            case kinds.RewardModel():
                found.append(locate(one.model).folder)
            case kinds.Sum() | kinds.Expression():
                found += files_of(kinds.read(one.parts))
    return found


def sum_of(options: Sequence[kinds.Common], name: str, means: Means) -> Part:
    return summed([part_of(one, means) for one in options], [one.weight for one in options], name)


def part_of(options: kinds.Common, means: Means) -> Part:
    """One part with its clip, and without its weight."""
    name = options.name or options.kind
    made = bare(options, name, means)
    if options.clip is not None and not (made.low < options.clip[1] and options.clip[0] < made.high):
        raise RecipeError(
            f"the clip of the reward {name} leaves nothing: it is {list(options.clip)}, and the values lie from "
            f"{made.low:g} to {made.high:g}"
        )
    found = clipped(made, options.clip)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):  # what cannot be graded counts with one of them
        raise RecipeError(f"the reward {name} has no end: it lies from {found.low:g} to {found.high:g}. Give it a clip")
    return found


def bare(options: kinds.Common, name: str, means: Means) -> Part:
    match options:
        case kinds.Python():
            return coded.python(options, name, insist=means.insist)
        case kinds.Tests():
            return coded.tests(options, name, insist=means.insist)
        case kinds.ReasoningGym():
            return coded.reasoning_gym(options, name, insist=means.insist)
        case kinds.Judge():
            return asked.judge(options, name, means.kept)
        case kinds.RewardModel():
            return reward_model(options, name)
        case kinds.OpenAI():
            return graders.openai(graders.Around(options, means.insist, means.kept), name)
        case kinds.Sum():
            return sum_of(kinds.read(options.parts, f"{name}.parts"), name, means)
        case kinds.Expression():
            inner = [part_of(one, means) for one in kinds.read(options.parts, f"{name}.parts")]
            return computed(Formula(options.expression), inner, options.clip, name)
        case kinds.Exact():
            return matches.exact(options, name)
        case kinds.Numeric():
            return matches.numeric(options, name)
        case kinds.Regex():
            return coded.regex(options, name)
        case kinds.JsonSchema():
            return coded.json_schema(options, name)
        case kinds.Similarity():
            return matches.similarity(options, name)
        case kinds.Length():
            return matches.length(options, name)
    raise AssertionError(options)
