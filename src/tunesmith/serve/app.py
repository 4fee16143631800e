"""The HTTP application: /v1/models, /v1/chat/completions and /health over one opened model."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tunesmith.errors import InputError, TunesmithError
from tunesmith.files import sha256_text, tensors_digest
from tunesmith.generate.limits import Limits
from tunesmith.generate.stream import Ask, Piece
from tunesmith.generate.structured import Form
from tunesmith.opened import TUNED, Opened
from tunesmith.serve.desk import Desk, Gone, Job, Late
from tunesmith.serve.door import Door
from tunesmith.serve.replies import SERVER_ERROR, EventStream, Writer, error_event, refusal
from tunesmith.serve.wire import Asked, Refused, error_body, parse

PATHS = "/v1/models, /v1/chat/completions, /health"
NOBODY = Response(status_code=499)  # the client has left; nobody reads it
STATUS_OF_LATE = 504


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request may take."""

    key: str | None = None
    is_exposed: bool = False  # reachable under names that are not this machine's loopback
    num_seats: int = 16  # requests waiting or answered at one time
    timeout_s: float = 600.0  # from asking to the last token
    body_bytes: int = 2**20
    body_timeout_s: float = 30.0


class Service:
    """The opened model behind its desk, and the names it answers to."""

    def __init__(self, opened: Opened, rules: Rules) -> None:
        self.opened, self.rules = opened, rules
        self.desk = Desk(opened, rules.num_seats)
        self.created = int(time.time())
        self.names = names(opened)
        self.fingerprints = {who: fingerprint(opened, who) for who in set(self.names.values())}

    async def chat(self, request: Request) -> Response:
        asked = parse(await self._json(request))
        if asked.model not in self.names:
            there = ", ".join(self.names)
            raise Refused(
                404, f"there is no model {asked.model!r}; there is: {there}", param="model", code="model_not_found"
            )
        who = self.names[asked.model]
        prompt = await asyncio.to_thread(self._prompt, asked)
        ask = Ask(asked.num, asked.top, asked.stop)
        limits = self._limits(asked, len(prompt))
        if asked.schema is not None:
            limits = replace(limits, form=await asyncio.to_thread(self._form, asked))
        job = Job(who, asked.turns, limits, ask, time.monotonic() + self.rules.timeout_s)
        writer = Writer(
            asked.model,
            self.fingerprints[who],
            len(prompt),
            asked.with_logprobs,
            self.opened.session.base.tokenizer,
        )
        self.desk.take(job)
        if asked.stream:
            events = told(writer.events(job.pieces(), asked.num, with_usage=asked.with_usage))
            return EventStream(events, lambda: self.desk.leave(job))
        try:
            return JSONResponse(writer.whole(await self._pieces(request, job), asked.num))
        finally:
            self.desk.leave(job)

    async def models(self, request: Request) -> Response:
        rows = [self._model(name) for name in self.names]
        return JSONResponse({"object": "list", "data": rows})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.names:
            raise Refused(404, f"there is no model {name!r}; there is: {', '.join(self.names)}", code="model_not_found")
        return JSONResponse(self._model(name))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "tunesmith"}

    def _prompt(self, asked: Asked) -> list[int]:
        try:
            return self.opened.prompt(asked.turns)
        except InputError as error:
            raise Refused(400, str(error), param="messages") from error

    def _form(self, asked: Asked) -> Form:
        try:
            return self.opened.form(schema=asked.schema)
        except InputError as error:
            raise Refused(400, str(error), param="response_format") from error

    def _limits(self, asked: Asked, num_prompt: int) -> Limits:
        context = self.opened.session.base.context_tokens
        if asked.max_tokens is not None and context is not None and num_prompt + asked.max_tokens > context:
            raise Refused(
                400,
                f"the prompt has {num_prompt} tokens and max_tokens is {asked.max_tokens}: together more than the "
                f"model's context of {context}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        changes: dict[str, Any] = {} if asked.max_tokens is None else {"max_new_tokens": asked.max_tokens}
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        return self.opened.limits(temperature=asked.temperature, top_p=asked.top_p, seed=seed, **changes)

    async def _json(self, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"Content-Type is {kind!r}; wanted application/json", code="invalid_content_type")
        try:
            async with asyncio.timeout(self.rules.body_timeout_s):
                return json.loads(await self._body(request))
        except TimeoutError as error:
            raise Refused(408, f"no whole body came within {self.rules.body_timeout_s:g} s") from error
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {error}", code="invalid_json") from error

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.rules.body_bytes:
                raise Refused(413, f"the body is larger than {self.rules.body_bytes} bytes", code="body_too_large")
        return bytes(body)

    async def _pieces(self, request: Request, job: Job) -> list[Piece]:
        """The whole answer; dropped when the client leaves."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            job.drop()

        watcher = asyncio.create_task(watch())
        try:
            return [piece async for piece in job.pieces()]
        finally:
            watcher.cancel()


async def told(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events; an error in their midst becomes the last one."""
    try:
        async for line in events:
            yield line
    except Gone:
        yield error_event(503, "the server is stopping")
    except TunesmithError as error:
        yield error_event(status_of(error), str(error))
    except Exception:
        yield error_event(500, SERVER_ERROR)
        raise


def names(opened: Opened) -> dict[str, str]:
    """What clients may call a model -> which of the two it is: base, tuned, and the name of the run or the model."""
    own = Path(opened.name).resolve().name if Path(opened.name).exists() else opened.name
    best = "base" if opened.tuned is None else TUNED
    return {own: best, **({} if opened.tuned is None else {TUNED: TUNED}), "base": "base"}


def fingerprint(opened: Opened, who: str) -> str:
    """Of the weights that answer: the same seed and fingerprint give the same answer on one machine."""
    snapshot = opened.who(who)
    tuned = "" if snapshot is None else tensors_digest(snapshot.values.items())
    return f"fp_{sha256_text(opened.session.base.digest + tuned)[:12]}"


async def on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


def status_of(error: Exception) -> int:
    return 400 if isinstance(error, InputError) else STATUS_OF_LATE if isinstance(error, Late) else 500


async def on_error(request: Request, error: Exception) -> Response:
    text = str(error) if isinstance(error, TunesmithError) else SERVER_ERROR
    status = status_of(error)
    # openai's client would ask again by itself, for an answer that takes as long again
    headers = {"x-should-retry": "false"} if status >= 500 else None
    return JSONResponse(error_body(status, text), status, headers)


async def on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}; there is: {PATHS}"
    return JSONResponse(error_body(error.status_code, text, code="unknown_url"), error.status_code, error.headers)


async def on_gone(request: Request, error: Exception) -> Response:
    return NOBODY


def make(opened: Opened, rules: Rules) -> ASGIApp:
    service = Service(opened, rules)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.desk.start()
        yield
        service.desk.stop()

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/health", service.health),
        ],
        exception_handlers={
            Refused: on_refused,
            TunesmithError: on_error,
            HTTPException: on_http,
            Gone: on_gone,
            ClientDisconnect: on_gone,
            Exception: on_error,
        },
        lifespan=lifespan,
    )
    return Door(app, rules.key, rules.is_exposed)
