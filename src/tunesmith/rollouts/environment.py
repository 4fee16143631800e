"""What answers the model, reply by reply, until an episode is over: the keys of a recipe, and what each kind is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol

from tunesmith.errors import RecipeError
from tunesmith.rollouts.episodes import Episode, Heard
from tunesmith.types import Example

READS = {  # by each kind, beside turns and tokens
    "none": (),
    "python": ("file", "timeout_s", "memory_mib"),
    "tools": ("file", "timeout_s", "memory_mib"),
    "user": ("endpoint", "model", "api_key_env", "persona", "timeout_s"),
}


@dataclass(frozen=True, slots=True)
class Environment:
    # what answers a reply: none: nothing does, and one reply is graded; python: a class of your own; tools: functions
    # that the model calls; user: a model that plays the user
    kind: Literal["none", "python", "tools", "user"] = "none"
    file: str = ""  # python: my_game.py:Game; tools: my_tools.py, of which each function is one
    turns: int = 6  # replies of the model in an episode, at most
    tokens: int = 768  # of an episode behind its prompt, replies and answers together, at most
    timeout_s: float = 10.0  # seconds for an answer, with those before it made again; python, tools: in a sandbox
    memory_mib: int = 512  # python, tools: of one copy of it
    endpoint: str | None = None  # user: an OpenAI-compatible address, up to and with /v1
    model: str = ""  # user: the name that the endpoint knows
    api_key_env: str | None = None  # user: environment variable that holds the key
    persona: str = "You are a customer who has a question."  # user: who it plays, and what it wants


class World(Protocol):
    """An environment that was opened. `low`, `high`: of what its own rewards of an episode come to."""

    @property
    def asked(self) -> Environment: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def files(self) -> Mapping[str, str]: ...  # that it is made of -> SHA-256
    @property
    def words(self) -> str: ...  # for the plan

    def begin(self, examples: Sequence[Example]) -> list[Example]:
        """The rows with the prompt that their episodes begin with."""
        ...

    def hear(self, episodes: Sequence[Episode]) -> list[Heard]:
        """What follows the last reply of each."""
        ...


@dataclass(frozen=True, slots=True)
class Staging:
    """What worlds may do on this machine."""

    insist: bool = False  # run code where no sandbox can be had: evals.code.trust_local_code
    kept: Path | None = None  # file in which what a simulated user says is kept; None: in memory only


def check(asked: Environment, *, has_reward: bool) -> None:
    """RecipeError where a key says nothing, or one that is needed is missing."""
    usual = Environment()
    common = ("turns", "tokens") if asked.kind != "none" else ()
    for one in fields(Environment):
        is_said = getattr(asked, one.name) != getattr(usual, one.name)
        if is_said and one.name not in ("kind", *common, *READS[asked.kind]):
            raise RecipeError(
                f"environment.{one.name} is not read by kind {asked.kind}, which reads "
                f"{', '.join((*common, *READS[asked.kind])) or 'nothing'}: leave it out, or say another kind"
            )
    for name in ("turns", "tokens", "timeout_s", "memory_mib"):
        if getattr(asked, name) <= 0:
            raise RecipeError(f"environment.{name} is {getattr(asked, name)}; wanted a number above 0")
    if "file" in READS[asked.kind] and not asked.file:
        raise RecipeError(f"environment.kind {asked.kind} needs environment.file")
    if asked.kind == "user" and not (asked.endpoint and asked.model):
        raise RecipeError("environment.kind user needs environment.endpoint and environment.model")
    if asked.kind in ("tools", "user") and not has_reward:
        raise RecipeError(
            f"environment.kind {asked.kind} gives no reward by itself: say what an episode is worth, as in reward: "
            "[{kind: numeric}]"
        )
