"""Episodes of several replies: who said what, token by token, and which of the tokens are the model's own.

All episodes go on side by side: each live one is answered by the model, then by its environment, round by round. What
was sampled stays as it is; behind it stand the tokens that the chat template puts there, its end of turn among them
where a reply was cut off. Nothing of a clock decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.errors import RunError
from tunesmith.types import Attempt, Completion, Example, Grade, Message

Behind = Callable[[Sequence[Message], Sequence[Message], bool], list[int]]  # said, then, whether its end stands there
OVER, TURNS, TOKENS = (
    "over",
    "as many turns as environment.turns",
    "no room for another reply in environment.tokens",
)


@dataclass(frozen=True, slots=True)
class Heard:
    """What an environment gave for a reply. Without messages the episode is over, and `why` may say how."""

    then: tuple[Message, ...] = ()
    reward: float = 0.0
    why: str = ""
    has_failed: bool = False  # it is the environment that failed; the episode gets the least there is
    calls: tuple[dict[str, Any], ...] = ()  # of functions, that the reply made
    raw: Any = None  # as it was said, to be held against what it says when it is made again


@dataclass(frozen=True, slots=True)
class Turn:
    text: str
    stopped: bool
    num_tokens: int
    heard: Heard = Heard()


@dataclass(frozen=True, slots=True)
class Whole:
    """What stands behind a prompt in the end."""

    completion: Completion
    spans: tuple[int, ...] = ()  # as of an episode
    turns: str = ""


@dataclass(slots=True)
class Episode:
    example: Example  # with the prompt that it begins with
    before: tuple[Message, ...]  # that prompt as it is put: the instruction included
    prompt: tuple[int, ...]
    turns: list[Turn] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # all behind the prompt
    spans: list[int] = field(default_factory=list)  # lengths in turn: the model's own, others', own …
    logp: list[float] = field(default_factory=list)  # of its own tokens
    ended: str = ""  # why; "": it goes on

    @property
    def said(self) -> list[Message]:
        """Prompt, replies and answers."""
        found = list(self.before)
        for turn in self.turns:
            calls = {"tool_calls": list(turn.heard.calls)} if turn.heard.calls else {}
            found += [Message("assistant", turn.text, extra=calls), *turn.heard.then]
        return found

    def add(self, reply: Completion) -> None:
        self.turns.append(Turn(reply.text, reply.stopped, len(reply.tokens)))
        self.tokens += reply.tokens
        self.spans.append(len(reply.tokens))
        self.logp += reply.logp

    @property
    def own(self) -> float:
        """What the environment itself gave."""
        return sum(turn.heard.reward for turn in self.turns)

    @property
    def failed(self) -> str:
        return next((turn.heard.why for turn in self.turns if turn.heard.has_failed), "")

    def attempt(self) -> Attempt:
        """The last reply behind everything before it, as rewards read it."""
        *earlier, last = self.turns
        prompt = (*self.example.prompt, *replace(self, turns=earlier).said[len(self.before) :])
        return Attempt(replace(self.example, prompt=prompt), last.text, self.stopped, len(self.logp))

    @property
    def stopped(self) -> bool:
        """Whether neither the episode nor its last reply was cut off."""
        return self.ended not in (TURNS, TOKENS) and self.turns[-1].stopped

    def transcript(self) -> str:
        """What a reader is shown, turn by turn."""
        lines = []
        for turn in self.turns:
            lines.append(f"assistant: {turn.text}")
            lines += [f"{m.role}: {m.content}" for m in turn.heard.then]
        return "\n\n".join([*lines, f"(ended: {self.ended})"])

    def rows(self) -> str:
        """The turns as JSON, for the table."""
        return json.dumps([
            {
                "reply": turn.text, "reward": turn.heard.reward, "num_tokens": turn.num_tokens,
                "then": [{"role": m.role, "content": m.content} for m in turn.heard.then],
            }
            for turn in self.turns
        ], ensure_ascii=False)  # fmt: skip

    def whole(self) -> Whole:
        said = Completion(tuple(self.tokens), tuple(self.logp), self.transcript(), self.stopped)
        return Whole(said, tuple(self.spans), self.rows())


@dataclass(frozen=True, slots=True)
class Bounds:
    turns: int
    tokens: int  # behind the prompt
    max_new_tokens: int  # of a reply
    end_id: int  # with which a reply ends where the template ends it


def play(
    episodes: Sequence[Episode],
    hear: Callable[[Sequence[Episode]], list[Heard]],
    sample: Callable[[Sequence[Sequence[int]], int], Sequence[Completion]],
    behind: Behind,
    most: Bounds,
) -> None:
    """All of them to their ends. `sample` is given the tokens of those that go on, and the number of the round."""
    for number in range(most.turns):
        live = [e for e in episodes if not e.ended]
        if not live:
            return
        for episode, reply in zip(live, sample([[*e.prompt, *e.tokens] for e in live], number), strict=True):
            episode.add(reply)
        for episode, heard in zip(live, hear(live), strict=True):
            go_on(episode, heard, behind, most)


def go_on(episode: Episode, heard: Heard, behind: Behind, most: Bounds) -> None:
    """Put what the environment said behind the reply, or end the episode."""
    episode.turns[-1] = replace(episode.turns[-1], heard=heard)
    if not heard.then or len(episode.turns) == most.turns:
        episode.ended = TURNS if heard.then else heard.why or OVER
        return
    said = episode.said[: -len(heard.then)]
    more = behind(said, heard.then, episode.tokens[-1] == most.end_id)
    if len(episode.tokens) + len(more) + most.max_new_tokens > most.tokens:
        episode.ended = TOKENS
        return
    episode.tokens += more
    episode.spans.append(len(more))


def graded(episodes: Sequence[Episode], grades: Sequence[Grade], low: float) -> list[Grade]:
    """What each is worth: the environment's own rewards, and what the recipe's reward gives. One whose environment
    failed gets `low`, the least of the environment's, beside that."""
    found = []
    for episode, grade in zip(episodes, grades, strict=True):
        own, failed = low if episode.failed else episode.own, episode.failed
        why = "; ".join(filter(None, (failed, grade.why, f"ended: {episode.ended}")))
        parts = {"environment": own, **grade.parts}
        found.append(Grade(own + grade.value, parts, why, grade.is_graded and not failed))
    return found


def same_again(before: Sequence[Any], again: Sequence[Any], file: str) -> None:
    """RunError where an environment said something else of the same replies."""
    for number, (old, new) in enumerate(zip(before, again, strict=True), 1):
        if old != new:
            raise RunError(
                f"{file} is not the same twice: for reply {number} it gave {old!r:.80}, and then, for the same "
                f"replies, {new!r:.80}. Chance has to come from Python's own `random`, which is seeded for each "
                "episode, and from no clock"
            )
