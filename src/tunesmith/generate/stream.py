"""Answers as they are written: each token becomes the piece of text that it makes certain, and never more.

What a later token could still change is held back: half a character, the beginning of a stop text, the frame that a
template puts around a content. So the pieces put together are the text of the finished answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

from tunesmith.data.render import begun
from tunesmith.errors import RunError
from tunesmith.generate.decode import Step
from tunesmith.generate.limits import Limits
from tunesmith.types import Completion


class Reader(Protocol):
    """Tokens of a reply to text: data.render.Renderer."""

    def text(self, reply_tokens: Sequence[int]) -> str: ...

    def settled(self, reply_tokens: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted of one prompt, beside its limits."""

    num: int = 1  # answers, written side by side
    top: int = 0  # likeliest tokens to report at each place
    stop: tuple[str, ...] = ()  # texts that end an answer and are no part of it


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    logp: float  # nats, before temperature and top_p
    best: tuple[tuple[int, float], ...] = ()  # likeliest tokens at its place and their nats


@dataclass(frozen=True, slots=True)
class Piece:
    """One more token of an answer, and what it made certain."""

    answer: int  # which of Ask.num
    text: str  # may be empty
    tokens: tuple[Token, ...]  # those whose text this is
    num_tokens: int  # of the answer so far, its stop token included
    finish: str | None = None  # "stop" | "length"; then it is the answer's last


@dataclass(slots=True)
class Writing:
    """One answer while it is written."""

    number: int
    limits: Limits
    stop: tuple[str, ...]
    reader: Reader
    ids: list[int] = field(default_factory=list)
    shown: str = ""
    length: int = 0  # of the text so far, held back or not
    waiting: list[tuple[int, int, Token]] = field(default_factory=list)  # where its text begins and ends

    def add(self, token: Token) -> Piece:
        self.ids.append(token.id)
        is_end = token.id in self.limits.stop_ids
        is_over = is_end or len(self.ids) == self.limits.max_new_tokens
        text = self.reader.text(self.ids)
        if not is_end:
            self.waiting.append((self.length, len(text), token))
        self.length = len(text)
        sure = text if is_over else self.reader.settled(self.ids)
        cut = min((at for at in map(sure.find, self.stop) if at >= 0), default=None)
        if cut is not None:
            return self._piece(sure[:cut], [t for _, _, t in takewhile(lambda w: w[0] < cut, self.waiting)], "stop")
        if is_over:
            return self._piece(text, [t for _, _, t in self.waiting], "stop" if is_end else "length")
        sure = sure[: len(sure) - begun(sure, self.stop)]
        tokens = [t for _, _, t in takewhile(lambda w: w[1] <= len(sure), self.waiting)]
        del self.waiting[: len(tokens)]
        return self._piece(sure, tokens, None)

    def _piece(self, sure: str, tokens: list[Token], finish: str | None) -> Piece:
        if not sure.startswith(self.shown):
            raise RunError(
                f"the tokenizer reads {sure[-40:]!r} where it read {self.shown[-40:]!r} a token before, so its answers "
                "cannot be shown while they are written; `tunesmith predict` writes finished answers"
            )
        new, self.shown = sure[len(self.shown) :], sure
        return Piece(self.number, new, tuple(tokens), len(self.ids), finish)


def unfold(steps: Generator[Step], stopped: set[int], limits: Limits, ask: Ask, reader: Reader) -> Iterator[Piece]:
    """One piece a token; answers that are finished are put into `stopped`."""
    writings = [Writing(i, limits, ask.stop, reader) for i in range(ask.num)]
    with closing(steps):
        for step in steps:
            for k, row in enumerate(step.rows):
                best = tuple(step.best[k]) if step.best else ()
                piece = writings[row].add(Token(step.tokens[k], step.logps[k], best))
                if piece.finish:
                    stopped.add(row)
                yield piece


def as_steps(completions: Sequence[Completion], stopped: set[int]) -> Generator[Step]:
    """Finished completions as if they were being written, for models that are answered by transformers' generation."""
    for place in range(max(len(c.tokens) for c in completions)):
        rows = tuple(i for i, c in enumerate(completions) if place < len(c.tokens) and i not in stopped)
        yield Step(rows, [completions[i].tokens[place] for i in rows], [completions[i].logp[place] for i in rows], [])
