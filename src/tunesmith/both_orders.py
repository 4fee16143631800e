"""A judge on this machine or behind an address, asked in both orders which of two answers is better.

One on this machine is not asked to write: of the letters A and B it says the one that it finds likelier, as in RLAIF
(Lee et al. 2023, arXiv:2309.00267), so that a small model can be read too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tunesmith.answered import Progress
from tunesmith.answerers import about, endpoint_in
from tunesmith.errors import DataError, InputError
from tunesmith.evals.endpoint import WAIT_S, Endpoint, Spoken, ask_all
from tunesmith.evals.judge import RULES, SYSTEM, Contest, Kept, Vote, preferred, question
from tunesmith.files import sha256_text
from tunesmith.opened import TUNED, Opened, check_any, open_any
from tunesmith.samplers import sent
from tunesmith.types import Message

LETTERS = ("A", "B")
LETTER = RULES + "Reply with one letter and nothing else: A where A is the better answer, B where B is."
AT_ONCE = 8  # questions to a model on this machine between two looks at the user
CONTRADICTED, TIE, NOT_READ = "the judge contradicts itself", "the judge finds them alike", "the judge cannot be read"


class Judge(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def system(self) -> str: ...  # with a hole for the rubric

    def sends(self, what: str) -> list[str]: ...  # what leaves this machine, before it does

    def ask(
        self, questions: Mapping[str, Sequence[Message]], kept: Kept, between: Callable[[], None]
    ) -> dict[str, str]:
        """Answers each into `kept`, under its key; returns what tells this judge from others."""
        ...


@dataclass(frozen=True, slots=True)
class There:
    name: str
    endpoint: Endpoint
    system: str = SYSTEM

    def sends(self, what: str) -> list[str]:
        return sent(self.endpoint, what)

    def ask(
        self, questions: Mapping[str, Sequence[Message]], kept: Kept, between: Callable[[], None]
    ) -> dict[str, str]:
        def keep(key: str, spoken: Spoken) -> None:
            kept.add(key, spoken.text)

        ask_all(lambda turns: self.endpoint.complete(turns, time.monotonic() + WAIT_S), questions, keep, between)
        return {"kind": "endpoint", "host": self.endpoint.host, "model": self.endpoint.model}


@dataclass(frozen=True, slots=True)
class Here:
    name: str
    system: str = LETTER

    def sends(self, what: str) -> list[str]:
        return []

    def ask(
        self, questions: Mapping[str, Sequence[Message]], kept: Kept, between: Callable[[], None]
    ) -> dict[str, str]:
        opened = open_any(self.name)
        opened = replace(opened, served=replace(opened.served, labels=LETTERS, instruction=""))
        model, keys = "base" if opened.tuned is None else TUNED, list(questions)
        for first in range(0, len(keys), AT_ONCE):
            for key, said in letters(opened, model, {key: questions[key] for key in keys[first : first + AT_ONCE]}):
                kept.add(key, said)
            between()
        return about(opened)


def letters(opened: Opened, model: str, questions: Mapping[str, Sequence[Message]]) -> list[tuple[str, str]]:
    """(key, the likelier letter as a reply), or why a question could not be asked."""
    said, fits = list[tuple[str, str]](), dict[str, Sequence[Message]]()
    for key, turns in questions.items():
        try:
            opened.prompt(turns)
            fits[key] = turns
        except (DataError, InputError) as error:
            said.append((key, f"not asked: {error}"))
    if fits:
        best = opened.label_logps(model, list(fits.values())).argmax(axis=1).tolist()
        said += [(key, json.dumps({"better": LETTERS[at]})) for key, at in zip(fits, best, strict=True)]
    return said


@dataclass(frozen=True, slots=True)
class Judged:
    about: dict[str, str]
    votes: tuple[Vote, ...]
    replies: tuple[tuple[str, ...], ...]  # to the two questions of each


def judged(
    contests: Sequence[Contest], judge: Judge, rubric: str, kept: Kept, progress: Progress, between: Callable[[], None]
) -> Judged:  # fmt: skip
    """A vote for each contest, of two questions; what was answered before is not asked again."""
    system = Message("system", judge.system.format(rubric=rubric))
    both = [[question(c, tuned_first=turned) for turned in (False, True)] for c in contests]
    keys = [[sha256_text(json.dumps([judge.name, system.content, text])) for text in texts] for texts in both]
    missing = {
        key: (system, Message("user", text))
        for texts, row in zip(both, keys)
        for text, key in zip(texts, row)
        if key not in kept.replies
    }
    total, last = len({key for row in keys for key in row}), -1

    def told() -> None:
        nonlocal last
        done = total - sum(key not in kept.replies for key in missing)
        if done > last:
            progress(done, total)
        last = done
        between()

    facts = judge.ask(missing, kept, told)
    told()
    replies = tuple(tuple(kept.replies[key] for key in row) for row in keys)
    return Judged(facts, tuple(vote(c, *both) for c, both in zip(contests, replies)), replies)


def vote(contest: Contest, straight: str, turned: str) -> Vote:
    """Of the replies with the first answer first, and with the second first: the second's share of each."""
    first = {None: None, "tie": 0.5, "A": 0.0, "B": 1.0}[preferred(straight)]
    second = {None: None, "tie": 0.5, "A": 1.0, "B": 0.0}[preferred(turned)]
    return Vote(contest.example_id, first, second)


def doubt(found: Vote) -> str:
    """Why nothing is concluded from a vote; "" where both orders name one answer."""
    if found.base_first is None or found.tuned_first is None:
        return NOT_READ
    if found.base_first != found.tuned_first:
        return CONTRADICTED
    return TIE if found.base_first == 0.5 else ""


def judge_of(what: str, key_env: str | None, *, may_send: bool) -> Judge:
    """As models are named elsewhere: `http(s)://host/v1#model`, or one on this machine."""
    endpoint = endpoint_in(what, key_env, "the prompts and their answers", may_send=may_send)
    if endpoint is None:
        check_any(what)
        return Here(what)
    return There(f"{endpoint.model} at {endpoint.host}", endpoint)
