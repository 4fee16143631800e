"""What goes back: OpenAI's completions, chunks, models and errors."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from tunesmith.generate.spelling import token_bytes
from tunesmith.generate.stream import Piece, Token
from tunesmith.serve.wire import Refused, error_body, usage

LOWEST_LOGP = -9999.0  # nats; JSON has no minus infinity
SERVER_ERROR = "something went wrong inside; the terminal that runs `tunesmith serve` shows what"


def refusal(wrong: Refused) -> JSONResponse:
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(wrong.status)
    return JSONResponse(wrong.body(), wrong.status, headers)


@dataclass(frozen=True)
class Writer:
    """Shapes one request's answers. `tokenizer` spells the tokens of log-probabilities."""

    model: str
    fingerprint: str
    num_prompt: int
    with_logprobs: bool
    tokenizer: Any
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: Sequence[Piece], num: int) -> dict[str, Any]:
        answers = [[p for p in pieces if p.answer == i] for i in range(num)]
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": "".join(p.text for p in answer), "refusal": None},
                "logprobs": self._logprobs([t for p in answer for t in p.tokens]),
                "finish_reason": answer[-1].finish,
            }
            for i, answer in enumerate(answers)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(answers)}

    async def events(self, pieces: AsyncIterator[Piece], num: int, *, with_usage: bool) -> AsyncIterator[str]:
        """Server-sent events: roles, texts as they come, the reasons to stop, usage where it was asked for."""
        more = {"usage": None} if with_usage else {}
        for i in range(num):
            yield self._chunk(i, {"role": "assistant", "content": ""}, more)
        last: dict[int, Piece] = {}
        async for piece in pieces:
            last[piece.answer] = piece
            if piece.text or (piece.tokens and self.with_logprobs):
                yield self._chunk(piece.answer, {"content": piece.text}, more, piece.tokens)
            if piece.finish:
                yield self._chunk(piece.answer, {}, more, finish=piece.finish)
        if with_usage:
            answers = [[piece] for piece in last.values()]
            yield event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(answers)})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(
        self,
        answer: int,
        delta: dict[str, str],
        more: dict[str, Any],
        tokens: Sequence[Token] = (),
        finish: str | None = None,
    ) -> str:
        logprobs = self._logprobs(tokens) if tokens else None
        choice = {"index": answer, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _usage(self, answers: Sequence[Sequence[Piece]]) -> dict[str, int]:
        return usage(self.num_prompt, [answer[-1].num_tokens for answer in answers])

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        rows = [
            {**self._spelled(t.id, t.logp), "top_logprobs": [self._spelled(i, logp) for i, logp in t.best]}
            for t in tokens
        ]
        return {"content": rows, "refusal": None}

    def _spelled(self, token: int, logp: float) -> dict[str, Any]:
        spelled = token_bytes(self.tokenizer, token)
        return {
            "token": spelled.decode("utf-8", "replace"),
            "logprob": max(logp, LOWEST_LOGP),
            "bytes": list(spelled),
        }


def event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_event(status: int, message: str) -> str:
    """What a stream that cannot go on ends with: its status was sent long ago."""
    return event(error_body(status, message))


class EventStream(StreamingResponse):
    """Server-sent events; `leave` is called however it ends, even before its first event."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.leave()
