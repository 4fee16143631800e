"""Who answers a prompt several times: a model on this machine, or one behind an OpenAI-compatible address.

Answers are kept in a folder, batch by batch or answer by answer, by a digest of all that decides them, so that a
stopped sampling goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from tunesmith.answered import Progress, Sitting
from tunesmith.answerers import about, endpoint_in
from tunesmith.errors import DataError, InputError
from tunesmith.evals.endpoint import WAIT_S, Endpoint, Spoken, ask_all
from tunesmith.evals.judge import Kept
from tunesmith.files import sha256_text
from tunesmith.opened import TUNED, Opened, check_any, open_any
from tunesmith.types import Message
from tunesmith.unasked import IN_CHAT, refuse_command

Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """How answers are sampled. `instruction`: stands before each prompt without one of its own; None: the run's."""

    num: int = 4
    temperature: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    instruction: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("n", self.num), ("max-tokens", self.max_new_tokens)):
            if value < 1:
                raise InputError(f"--{name} is {value}; wanted 1 or more")
        if not self.temperature > 0:
            raise InputError(f"--temperature is {self.temperature:g}: all answers to a prompt would be the same")

    def several(self) -> Draw:
        """Itself. InputError where there would be nothing to compare."""
        if self.num < 2:
            raise InputError(f"--n is {self.num}; wanted 2 or more: answers are compared")
        return self


@dataclass(frozen=True, slots=True)
class Sampled:
    """`prompts`: as they were asked, instruction included. `answers`: to each, or why it could not be asked."""

    about: dict[str, str]
    prompts: tuple[Turns, ...]
    answers: tuple[tuple[Spoken, ...] | str, ...]


class Sampler(Protocol):
    @property
    def name(self) -> str: ...

    def sends(self, num_prompts: int) -> list[str]: ...  # what leaves this machine, before it does

    def sample(
        self, prompts: Sequence[Turns], draw: Draw, kept: Path, progress: Progress, between: Callable[[], None]
    ) -> Sampled: ...


@dataclass(frozen=True, slots=True)
class Here:
    """A run, a folder, a hub name, a known name or a GGUF file; loaded when it is asked, and let go after."""

    name: str

    def sends(self, num_prompts: int) -> list[str]:
        return []

    def sample(
        self, prompts: Sequence[Turns], draw: Draw, kept: Path, progress: Progress, between: Callable[[], None]
    ) -> Sampled:
        opened = open_any(self.name)
        refuse_command(opened.served.task, f"{self.name} learned from", IN_CHAT, writes=True)
        if opened.session.base.by_head:
            raise InputError(f"{self.name} has a class head, and samples no answers: name another model")
        if draw.instruction is not None:
            opened = replace(opened, served=replace(opened.served, instruction=draw.instruction))
        asked = [opened.messages(p) for p in prompts]
        problems = [problem(opened, p, draw.max_new_tokens) for p in asked]
        usable = [p for p, why in zip(asked, problems) if not why]
        total = len(usable) * draw.num
        progress(0, total)
        sitting = Sitting(lambda done, _: progress(done, total), kept / "answers.jsonl", between)
        answers = iter(sampled(opened, usable, draw, sitting))
        return Sampled(about(opened), tuple(asked), tuple(why or next(answers) for why in problems))


def problem(opened: Opened, prompt: Turns, room: int) -> str:
    """Why a prompt cannot be asked; "" where it can."""
    try:
        length = len(opened.prompt(prompt))
    except (DataError, InputError) as error:
        return str(error)
    context = opened.session.base.context_tokens
    if context is not None and length + room > context:
        return f"the prompt has {length} tokens and its answers up to {room}, the model's context is {context}"
    return ""


def sampled(opened: Opened, prompts: Sequence[Turns], draw: Draw, sitting: Sitting) -> list[tuple[Spoken, ...]]:
    """A batch is always the same prompts with a seed of its own, so a resumed sampling is the uninterrupted one."""
    size = max(1, opened.recipe.evals.rows // draw.num)
    said = [about(opened), asdict(draw), [[m.as_dict() for m in p] for p in prompts], size]
    key = sha256_text(json.dumps(said, default=str))
    known, found = sitting.begin(key), list[tuple[Spoken, ...]]()
    model = "base" if opened.tuned is None else TUNED
    for number, first in enumerate(range(0, len(prompts), size)):
        batch = known.get(number)
        if batch is None:
            seed = int(sha256_text(repr((draw.seed, number)))[:14], 16)
            limits = opened.limits(
                max_new_tokens=draw.max_new_tokens, temperature=draw.temperature, seed=seed, rows=size * draw.num
            )
            each = [p for p in prompts[first : first + size] for _ in range(draw.num)]
            batch = [[c.text, c.stopped] for c in opened.complete(model, each, limits)]
            sitting.keep({number: batch})
        spoken = [Spoken(*one) for one in batch]
        found += [tuple(spoken[k : k + draw.num]) for k in range(0, len(spoken), draw.num)]
        sitting.progress(len(found) * draw.num, len(prompts) * draw.num)
    return found


AGAIN = 1_000_003  # between the seeds of one prompt that is asked several times


@dataclass(frozen=True, slots=True)
class There:
    """A model behind an address; each answer is a question of its own, with a seed of its own."""

    name: str
    endpoint: Endpoint

    def sends(self, num_prompts: int) -> list[str]:
        return sent(self.endpoint, f"{num_prompts} prompts")

    def sample(
        self, prompts: Sequence[Turns], draw: Draw, kept: Path, progress: Progress, between: Callable[[], None]
    ) -> Sampled:
        endpoint = replace(self.endpoint, max_tokens=draw.max_new_tokens, temperature=draw.temperature)
        head = (Message("system", draw.instruction),) if draw.instruction else ()
        asked = [p if p[0].role in ("system", "developer") else (*head, *p) for p in prompts]
        seeds, times = list[list[int]](), Counter[str]()
        for turns in asked:  # one that is asked again gets another answer
            first = draw.seed + AGAIN * times[self.key(endpoint, turns, 0)]
            seeds.append([first + k for k in range(draw.num)])
            times[self.key(endpoint, turns, 0)] += 1
        replies = Kept(kept / "answers.jsonl")
        keys = [[self.key(endpoint, turns, seed) for seed in row] for turns, row in zip(asked, seeds)]
        missing = {
            key: (turns, seed)
            for turns, row, own in zip(asked, keys, seeds)
            for key, seed in zip(row, own)
            if key not in replies.replies
        }
        total, left = len(asked) * draw.num, len(missing)
        progress(total - left, total)

        def keep(key: str, spoken: Spoken) -> None:
            nonlocal left
            left -= 1
            replies.add(key, json.dumps(asdict(spoken), ensure_ascii=False))
            progress(total - left, total)

        def ask(question: tuple[Turns, int]) -> Spoken:
            turns, seed = question
            return replace(endpoint, seed=seed).complete(turns, time.monotonic() + WAIT_S)

        ask_all(ask, missing, keep, between)
        answers = tuple(tuple(Spoken(**json.loads(replies.replies[key])) for key in row) for row in keys)
        facts = {"kind": "endpoint", "host": endpoint.host, "model": endpoint.model}
        return Sampled(facts, tuple(asked), answers)

    def key(self, endpoint: Endpoint, turns: Turns, seed: int) -> str:
        said = [endpoint.address, endpoint.model, endpoint.max_tokens, endpoint.temperature, seed]
        return sha256_text(json.dumps([*said, [m.as_dict() for m in turns]]))


def sent(endpoint: Endpoint, what: str) -> list[str]:
    return [] if endpoint.is_here else [f"WARNING: {what} are sent to {endpoint.host}"]


def sampler(what: str, key_env: str | None, *, may_send: bool) -> Sampler:
    """Who is meant: `http(s)://host/v1#model`, or a model on this machine (or of the hub) by name."""
    endpoint = endpoint_in(what, key_env, "the prompts", may_send=may_send)
    if endpoint is None:
        check_any(what)
        return Here(what)
    return There(f"{endpoint.model} at {endpoint.host}", endpoint)
