"""A chat model behind an OpenAI-compatible address: one question, one answer, with patience and without surprises.

What judges answers (`judge.py`) and what is evaluated itself (`tunesmith/answerers.py`) ask through it.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tunesmith import offline
from tunesmith.errors import InputError, RunError
from tunesmith.types import Message

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TIMEOUT_S, LONGEST_WAIT_S, NUM_TRIES = 120.0, 60.0, 6
MOST_BYTES = 2**20  # of an answer
NUM_AT_ONCE = 4  # questions under way
WAIT_S = 600.0  # for one answer, all tries together
EVERY_S = 0.2  # between two looks whether the user wants to stop
Question = TypeVar("Question")
Found = TypeVar("Found")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what another try may mend


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the texts and the key to an address that nobody named."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What an endpoint answered."""

    text: str
    stopped: bool  # False: it ran into the limit of tokens


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`address`: up to and with /v1. The key is read from the environment at each question and kept nowhere."""

    address: str
    model: str
    api_key_env: str | None = None
    max_tokens: int = 400
    temperature: float = 0.0
    seed: int | None = None  # of sampling, for servers that heed it

    def __post_init__(self) -> None:
        where = urlsplit(self.address)
        if where.scheme not in ("http", "https") or not where.hostname or where.username or where.query:
            raise InputError(
                f"the endpoint {self.host} is no address of an API: wanted http(s)://host/v1, with the key in an "
                "environment variable and not in the address"
            )
        if not self.model:
            raise InputError(f"the endpoint {self.host} needs the name of a model")
        if self.api_key_env is not None:
            if where.scheme == "http" and where.hostname not in LOOPBACK:
                raise InputError(f"the key for {self.host} would be sent unencrypted: use https")
            if not os.environ.get(self.api_key_env):
                raise InputError(
                    f"the key for {self.host} is to stand in ${self.api_key_env}, which is empty: "
                    f"export {self.api_key_env}=…"
                )

    @property
    def is_here(self) -> bool:
        """Whether what is sent stays on this machine."""
        return urlsplit(self.address).hostname in LOOPBACK

    @property
    def host(self) -> str:
        where = urlsplit(self.address)
        return where.netloc.rpartition("@")[2] or self.address[:60]

    def allowed(self, what: str) -> Endpoint:
        """Itself. InputError where it is on another machine, and the network is forbidden."""
        switch = offline.forbidden_by()
        if switch and not self.is_here:
            raise InputError(f"{what} is {self.host}, and ${switch} forbids the network: unset one of them")
        return self

    def ask(self, system: str, user: str, until: float, sleep: Callable[[float], None] = time.sleep) -> str:
        """The text of the answer to one question under one instruction."""
        return self.complete((Message("system", system), Message("user", user)), until, sleep).text

    def complete(self, turns: Sequence[Message], until: float, sleep: Callable[[float], None] = time.sleep) -> Spoken:
        """What follows these turns. `until`: of time.monotonic(); RunError past it."""
        body = {
            "model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens,
            "messages": [turn.as_dict() for turn in turns], **({} if self.seed is None else {"seed": self.seed}),
        }  # fmt: skip
        return self.patiently(lambda timeout_s: self.answer(self.post(body, timeout_s)), until, TIMEOUT_S, sleep)

    def patiently(
        self, send: Callable[[float], Found], until: float, timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Found:  # fmt: skip
        """What `send` gives, within the seconds that it is given. What another try may mend is tried again, later each
        time or as the server says; RunError past `until`, of time.monotonic()."""
        for attempt in range(NUM_TRIES):
            left = until - time.monotonic()
            if left <= 0:
                raise RunError(f"{self.host} did not answer in the time that was given; what it said so far is kept")
            try:
                return send(min(timeout_s, left))
            except urllib.error.HTTPError as error:
                trouble = f"{error.code}: {said_by(error)}"
                if error.code not in PASSING:
                    raise InputError(f"{self.host} refused the question ({self.hidden(trouble)})") from None
                wait = asked_to_wait(error.headers.get("Retry-After"))
            except (OSError, HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
                trouble, wait = str(getattr(error, "reason", error)), None
            if attempt < NUM_TRIES - 1:
                pause = min(2.0**attempt, LONGEST_WAIT_S) if wait is None else min(wait, LONGEST_WAIT_S)
                sleep(max(0.0, min(pause, until - time.monotonic())))
        raise RunError(f"{self.host} gave no answer in {NUM_TRIES} tries, the last time: {self.hidden(trouble)}")

    def post(
        self, body: dict[str, Any] | None, timeout_s: float, to: str = "chat/completions", most: int = MOST_BYTES
    ) -> bytes:
        """What comes back from the path `to`; asked for, where there is no body."""
        headers = {"Content-Type": "application/json", "User-Agent": "tunesmith"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.api_key_env, '')}"
        request = urllib.request.Request(
            f"{self.address.rstrip('/')}/{to}", None if body is None else json.dumps(body).encode(), headers
        )
        # to this machine itself no proxy of the environment is asked: what stays here, stays here
        handlers: list[Any] = [NoRedirect, *([urllib.request.ProxyHandler({})] if self.is_here else [])]
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as reply:
            found: bytes = reply.read(most + 1)
        if len(found) > most:
            raise ValueError(f"an answer of more than {most} bytes")
        return found

    def answer(self, raw: bytes) -> Spoken:
        try:
            choice = json.loads(raw)["choices"][0]
            text, why = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise ValueError("what came back is no chat completion") from None
        return Spoken(text if isinstance(text, str) else "", why != "length")

    def hidden(self, text: str) -> str:
        """Without the key, which a careless server may repeat."""
        key = os.environ.get(self.api_key_env, "") if self.api_key_env else ""
        return text.replace(key, "…") if key else text


def said_by(error: urllib.error.HTTPError) -> str:
    """The server's own words, cut."""
    text = error.read(2000).decode("utf-8", "replace")
    try:
        found = json.loads(text)["error"]
        text = str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except (KeyError, TypeError, ValueError):
        pass
    return " ".join(text.split())[:300] or str(error.reason)


def asked_to_wait(said: str | None) -> float | None:
    """Seconds of a Retry-After header; None where it says none."""
    try:
        return max(0.0, float(said or ""))
    except ValueError:
        return None


def ask_all(
    ask: Callable[[Question], Found], missing: Mapping[str, Question], keep: Callable[[str, Found], None],
    between: Callable[[], None] = lambda: None, at_once: int = NUM_AT_ONCE,
) -> None:  # fmt: skip
    """Some questions at a time. After the first error none is begun; answers under way are paid for, and are kept."""
    pool, over = ThreadPoolExecutor(at_once), threading.Event()

    def unless_over(question: Question) -> Found | None:
        if over.is_set():
            return None
        try:
            return ask(question)
        except BaseException:
            over.set()
            raise

    failed = None
    try:
        open_: dict[Future[Found | None], str] = {
            pool.submit(unless_over, question): key for key, question in missing.items()
        }
        while open_:
            done, _ = wait(open_, EVERY_S, FIRST_COMPLETED)
            for future in done:
                key = open_.pop(future)
                if (error := future.exception()) is not None:
                    failed = failed or error
                elif (found := future.result()) is not None:
                    keep(key, found)
            between()
    finally:
        over.set()
        pool.shutdown(wait=False, cancel_futures=True)
    if failed is not None:
        raise failed
