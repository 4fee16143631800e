"""Who answers: a model on this machine, or one behind an OpenAI-compatible address. Both give the same record.

What was answered is kept in a folder, batch by batch or answer by answer, by a digest of all that decides it: a stopped
evaluation goes on where it was, and nothing that costs money is asked twice.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tunesmith.answered import Sitting
from tunesmith.errors import InputError, RunError
from tunesmith.evals.endpoint import WAIT_S, Endpoint, Spoken, ask_all
from tunesmith.evals.judge import Kept
from tunesmith.evals.score import Answer
from tunesmith.files import sha256_text, tensors_digest
from tunesmith.opened import TUNED, Opened, check_any, open_any
from tunesmith.predict import Prediction, Predictor
from tunesmith.questions import Questions
from tunesmith.types import Message

LEAST_LABEL_TOKENS = 32  # a model that writes a label may cut it into more tokens than the run's own


@dataclass(frozen=True, slots=True)
class Answered:
    """What one model said to all cases, and what a reader must know of it."""

    name: str
    about: dict[str, str]  # kind, and what tells this model from others
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


class Answerer(Protocol):
    @property
    def name(self) -> str: ...

    def answer(self, asked: Questions, kept: Path, progress: Callable[[int, int], None],
               between: Callable[[], None]) -> Answered: ...  # fmt: skip


@dataclass(frozen=True, slots=True)
class Local:
    """A run, a folder, a hub name, a known name or a GGUF file; loaded when it is asked, and let go after."""

    name: str

    def answer(
        self, asked: Questions, kept: Path, progress: Callable[[int, int], None], between: Callable[[], None]
    ) -> Answered:
        opened = open_any(self.name)
        own = opened.served.instruction
        model = "base" if opened.tuned is None else TUNED
        served = asked.served
        if opened.session.base.by_head:  # it was given texts alone, and an instruction would be a part of them
            served = replace(served, instruction=own)
        predictor = Predictor(replace(opened, served=served), None, model)
        prompts = [e.prompt for e in asked.cases]
        sitting = Sitting(progress, kept / f"{sha256_text(self.name)[:12]}.jsonl", between)
        found = [Prediction(**row) for row in self.rows(predictor, prompts, sitting)]
        notes = []
        if opened.tuned is not None and own != served.instruction:
            notes.append(f"{self.name} was tuned under another instruction than these cases were asked with.")
        problems = [p.problem for p in found if p.problem]
        if problems:
            notes.append(
                f"{len(problems)} of {len(found)} cases could not be asked of {self.name} and count as answered with "
                f"nothing: {problems[0]}."
            )
        if opened.session.base.located.note:
            notes.append(f"{self.name}: {opened.session.base.located.note}.")
        return Answered(self.name, about(opened), tuple(map(as_answer, found)), (*notes, *cut_off(self.name, found)))

    def rows(
        self, predictor: Predictor, prompts: Sequence[tuple[Message, ...]], sitting: Sitting
    ) -> list[dict[str, Any]]:
        """Predictions as they are kept: of every batch of prompts, in order."""
        size = predictor.batch_rows
        texts = [[m.as_dict() for m in p] for p in prompts]
        said = [about(predictor.opened), asdict(predictor.opened.served), texts, size]
        known = sitting.begin(sha256_text(json.dumps(said, default=str)))
        rows: list[dict[str, Any]] = []
        sitting.progress(0, len(prompts))
        for number, first in enumerate(range(0, len(prompts), size)):
            batch = known.get(number)
            if batch is None:
                batch = [asdict(p) for p in predictor(prompts[first : first + size])]
                sitting.keep({number: batch})
            rows += batch
            sitting.progress(len(rows), len(prompts))
        return rows


def about(opened: Opened) -> dict[str, str]:
    """What tells this model from others: bit by bit, the weights that answer."""
    base = opened.session.base
    found = {"kind": "model on this machine", "base": base.located.base_model, "base_digest": base.digest}
    if opened.tuned is not None:
        found |= {"kind": "tuned model of a run", "tuned_digest": tensors_digest(opened.tuned.values.items())}
    return found


def as_answer(found: Prediction) -> Answer:
    return Answer(found.answer, not found.cut, 0, found.confidence)


def cut_off(name: str, found: Sequence[Prediction]) -> list[str]:
    num = sum(bool(p.cut) for p in found)
    return [f"{num} of {len(found)} answers of {name} ran into the limit of tokens."] if num else []


@dataclass(frozen=True, slots=True)
class Remote:
    """A model behind an address. Labels are read from what it writes."""

    name: str
    endpoint: Endpoint

    def answer(
        self, asked: Questions, kept: Path, progress: Callable[[int, int], None], between: Callable[[], None]
    ) -> Answered:
        limit = max(asked.max_new_tokens, LEAST_LABEL_TOKENS) if asked.labels else asked.max_new_tokens
        endpoint = replace(self.endpoint, max_tokens=limit)
        replies = Kept(kept / f"{sha256_text(endpoint.address)[:12]}.jsonl")
        prompts = asked.prompts()
        keys = [sha256_text(json.dumps([endpoint.model, limit, [m.as_dict() for m in p]])) for p in prompts]
        missing = {key: p for key, p in zip(keys, prompts) if key not in replies.replies}
        left = set(missing)

        def keep(key: str, spoken: Spoken) -> None:
            replies.add(key, json.dumps(asdict(spoken), ensure_ascii=False))
            left.discard(key)
            progress(len(keys) - len(left), len(keys))

        progress(len(keys) - len(left), len(keys))
        try:
            ask_all(lambda p: endpoint.complete(p, time.monotonic() + WAIT_S), missing, keep, between)
        except RunError as error:
            raise RunError(f"{error}. The answers so far are kept: the same command with --resume goes on") from error
        spoken = [Spoken(**json.loads(replies.replies[key])) for key in keys]
        texts = [named_label(s.text, asked.labels) if asked.labels else s.text for s in spoken]
        notes = []
        num_cut = sum(not s.stopped for s in spoken)
        if num_cut:
            notes.append(f"{num_cut} of {len(spoken)} answers of {self.name} ran into the limit of {limit} tokens.")
        if asked.labels:
            odd = sum(t not in asked.labels for t in texts)
            notes.append(
                f"the labels of {self.name} are read from what it wrote ({odd} of {len(texts)} answers name no single "
                "label and count as wrong); models on this machine choose the likeliest label."
            )
        facts = {"kind": "endpoint", "host": endpoint.host, "model": endpoint.model}
        answers = tuple(Answer(t, s.stopped, 0) for t, s in zip(texts, spoken))
        return Answered(self.name, facts, answers, tuple(notes))


def named_label(text: str, labels: Sequence[str]) -> str:
    """The label that a text is or, as a whole word, names; the text itself where it names none, or several."""

    def plain(words: str) -> str:
        return words.strip().strip("\"'`*.:!,;()[]{}<>").strip().casefold()

    by_plain = {plain(label): label for label in labels}
    if plain(text) in by_plain:
        return by_plain[plain(text)]
    # The longest labels first, each taken out of the text, so that "very good" does not name "good" too.
    rest, found = text.casefold(), []
    for label in sorted(labels, key=len, reverse=True):
        rest, num = re.subn(rf"(?<!\w){re.escape(label.casefold())}(?!\w)", " ", rest)
        found += [label] if num else []
    return found[0] if len(found) == 1 else text.strip()


def answerer(what: str, key_env: str | None, *, may_send: bool) -> Answerer:
    """Who is meant: `http(s)://host/v1#model`, or a model on this machine (or of the hub) by name.

    Texts go to another machine only where the user says so.
    """
    endpoint = endpoint_in(what, key_env, "the prompts of the held-out cases", may_send=may_send)
    if endpoint is None:
        check_any(what)
        return Local(what)
    return Remote(f"{endpoint.model} at {endpoint.host}", endpoint)


def endpoint_in(what: str, key_env: str | None, sent: str, *, may_send: bool) -> Endpoint | None:
    """The address that is meant; None where it is a model on this machine. `sent`: what would go there, for people."""
    if not what.startswith(("http://", "https://")):
        if key_env is not None:
            raise InputError(f"{what} is a model on this machine and takes no key; a key is for an http(s):// endpoint")
        return None
    address, _, model = what.partition("#")
    if not model:
        raise InputError(f"{what} names no model: wanted is the address, # and the model's name there, {address}#NAME")
    endpoint = Endpoint(address, model, key_env).allowed(f"the address of {model}")
    if not endpoint.is_here and not may_send:
        raise InputError(
            f"{sent} would leave this machine for {endpoint.host}. If they may, add "
            "--yes-send; references and scores stay here either way"
        )
    return endpoint


def announce(who: Answerer, asked: Questions, say: Callable[[str], None]) -> None:
    """Before anything is sent: what goes where."""
    if isinstance(who, Remote) and not who.endpoint.is_here:
        chars = sum(len(m.content) for p in asked.prompts() for m in p)
        say(
            f"WARNING: {len(asked.cases)} prompts ({chars:,} characters, instruction included) are sent to "
            f"{who.endpoint.host}; references and scores are not"
        )
