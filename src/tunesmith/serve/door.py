"""Who may come in: the address that is asked for, the page that asks, and the key. Before any body is read.

A page in the user's browser can reach a loopback server under a name of its own (DNS rebinding) or by a plain form; so
the Host header has to name this server, and an Origin, where there is one, has to be this server's own. There are no
CORS headers: no other page can read an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.serve.replies import refusal
from tunesmith.serve.wire import Refused

OPEN = ("/health",)  # asked by whoever starts the server, without a key; says nothing of the model


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """Without the port: [::1]:8000 is ::1. "" where it is no host."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True)
class Door:
    """`key` None: none is wanted. `is_exposed`: reachable by names that this server cannot know; the key guards it."""

    app: ASGIApp
    key: str | None
    is_exposed: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            wrong = self.wrong(scope["path"], Headers(scope=scope))
            if wrong is not None:
                await refusal(wrong)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def wrong(self, path: str, headers: Headers) -> Refused | None:
        host = headers.get("host", "")
        if not self.is_exposed and not is_loopback(host_of(host)):
            return Refused(403, f"Host is {host[:80]!r}; this server answers to localhost only", code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return Refused(403, f"pages of {origin[:80]!r} may not ask this server", code="wrong_origin")
        if self.key is not None and path not in OPEN and not same(headers.get("authorization", ""), self.key):
            return Refused(
                401, "the API key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key"
            )
        return None


def same(authorization: str, key: str) -> bool:
    """In a time that does not depend on where the two differ, or on their lengths."""
    kind, _, given = authorization.partition(" ")
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given.strip(), key)]
    return hmac.compare_digest(*digests) and kind.lower() == "bearer"
