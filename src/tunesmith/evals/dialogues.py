"""Dialogues: rows in which the assistant speaks several times. A chatbot is scored over all of it, on its own history.

The user's turns stand as they are written. Behind each the model answers, and what it answers, not the reference, is
what it has said when the next turn comes (docs/dialogues.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from tunesmith.errors import PlanError
from tunesmith.evals.metrics import Metric, Outputs
from tunesmith.evals.tasks import answer_text
from tunesmith.types import Example, Message, Reply

CALLS = ("tools", "tool_calls")  # of a message's extra; other spellings became these when it was read


def is_answered(message: Message) -> bool:
    """Whether the model speaks here; an assistant turn of weight 0, such as a greeting, is context."""
    return message.role == "assistant" and message.weight > 0


def calls_functions(example: Example) -> bool:
    """What functions gave back was written for the reference's calls: behind other calls it would make no sense."""
    last = [example.target.message] if isinstance(example.target, Reply) else []
    turns = (*example.prompt, *last)
    return any(m.role in ("tool", "function") or any(map(m.extra.get, CALLS)) for m in turns)


def turns_of(example: Example) -> tuple[Example, ...]:
    """The example once for each turn in which the model speaks, asked for that turn behind all before it as they are
    written; the example itself where there is one, and where functions are called."""
    if not isinstance(example.target, Reply) or calls_functions(example):
        return (example,)
    earlier = [(at, m) for at, m in enumerate(example.prompt) if is_answered(m)]
    return (*(replace(example, prompt=example.prompt[:at], target=Reply(m)) for at, m in earlier), example)


def is_dialogue(example: Example) -> bool:
    return len(turns_of(example)) > 1


def asked_of(example: Example, *, plays: bool) -> tuple[Example, ...]:
    """Its turns where dialogues are played through, else itself."""
    return turns_of(example) if plays else (example,)


def rounds(cases: Sequence[Example], *, plays: bool) -> list[list[Example]]:
    """First turns, second turns …, each in the order of the cases that have one."""
    dialogues = [asked_of(e, plays=plays) for e in cases]
    most = max(map(len, dialogues), default=0)
    return [[turns[number] for turns in dialogues if number < len(turns)] for number in range(most)]


def each_turn(cases: Sequence[Example], *, plays: bool) -> list[Example]:
    """All turns of the first case, then those of the second …"""
    return [turn for e in cases for turn in asked_of(e, plays=plays)]


def by_case(rows: Iterable[Any], wanted: Sequence[object]) -> list[Any]:
    """What was made for `each_turn`, put together as the references are: a tuple for each dialogue."""
    each = iter(rows)
    return [tuple(islice(each, len(w))) if isinstance(w, tuple) else next(each) for w in wanted]


def behind(turn: Example, answers: Sequence[str], left_out: int = 0) -> Example:
    """The turn behind the model's own answers to those before it, without so many of the oldest exchanges."""
    if answers:
        own = iter(answers)
        prompt = tuple(Message("assistant", next(own)) if is_answered(m) else m for m in turn.prompt)
        assert next(own, None) is None, "as many answers as the reference has before this turn"
        turn = replace(turn, prompt=prompt)
    for _ in range(left_out):
        shorter = without_oldest(turn)
        assert shorter is not None
        turn = shorter
    return turn


def without_oldest(turn: Example) -> Example | None:
    """Without all up to the first thing that the assistant said, but for the system message; None where it said
    nothing yet, and where functions are called."""
    at = next((at for at, m in enumerate(turn.prompt) if m.role == "assistant"), None)
    if at is None or calls_functions(turn):
        return None
    kept = [m for m in turn.prompt[:at] if m.role in ("system", "developer")]
    return replace(turn, prompt=(*kept, *turn.prompt[at + 1 :]))


def said_since(turn: Example) -> tuple[Message, ...]:
    """What stands between the model's answer before and this one, without system messages."""
    last = max((at for at, m in enumerate(turn.prompt) if is_answered(m)), default=-1)
    return tuple(m for m in turn.prompt[last + 1 :] if m.role not in ("system", "developer"))


def unanswered(example: Example) -> Example:
    """A dialogue without what the reference answers; any other example as it is."""
    kept = tuple(m for m in example.prompt if not is_answered(m))
    return replace(example, prompt=kept) if is_dialogue(example) else example


def reference(example: Example, *, plays: bool) -> str | tuple[str, ...]:
    """What the answer is scored against; of a dialogue that is played through, turn by turn."""
    turns = asked_of(example, plays=plays)
    return tuple(map(answer_text, turns)) if len(turns) > 1 else answer_text(example)


def transcript(said: str | Sequence[str]) -> str:
    """What the assistant says in a dialogue, as one text to be read; a text as it is."""
    return said if isinstance(said, str) else "\n\n".join(f"assistant: {text}" for text in said)


def pairs_of(output: Any, wanted: Any) -> list[tuple[Any, Any]]:
    """Output and reference of each turn. A reference that is a tuple is one of a dialogue, and so is its output; any
    other case has one turn."""
    return list(zip(output, wanted, strict=True)) if isinstance(wanted, tuple) else [(output, wanted)]


def over_turns(metric: Metric) -> Metric:
    """The metric of dialogues, each of which counts once, however many turns it has: its statistics are the mean of
    its turns'."""

    def stats(outputs: Outputs, references: Outputs) -> np.ndarray:
        each = [pairs_of(o, w) for o, w in zip(outputs, references, strict=True)]
        flat = [pair for turns in each for pair in turns]
        rows = metric.stats([o for o, _ in flat], [w for _, w in flat])
        ends = np.cumsum([len(turns) for turns in each])
        return np.array([part.mean(axis=0) for part in np.split(rows, ends)[:-1]])

    def case(output: object, wanted: object) -> float:
        return float(np.mean([metric.case(o, w) for o, w in pairs_of(output, wanted)]))

    if metric.needs == "judge":  # who is shown whole dialogues
        return metric
    # a dialogue of which some turns are right is neither right nor wrong
    return replace(metric, kind="mean" if metric.kind == "binary" else metric.kind, case=case, stats=stats)


def plays(history: str, task: str, cases: Sequence[Example], metrics: Sequence[Metric]) -> bool:
    """Whether dialogues are played through. PlanError where that was said, and there is none or it makes no sense."""
    if history == "given" or (history == "auto" and task != "chat"):
        return False
    why = ""
    if any(m.needs == "samples" for m in metrics):
        why = "pass_at_k runs tests, which are those of the last answer"
    elif not any(map(is_dialogue, cases)):
        why = "no held-out row has several learned turns of the assistant without calls of functions"
    if why and history == "own":
        raise PlanError(f"evals.history is own, and {why}: leave it out")
    return not why
