"""`tunesmith serve`: an OpenAI-compatible endpoint on this machine."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.options import part
from tunesmith.errors import InputError


def serve(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a model.")],
    port: Annotated[int, typer.Option(help="0 finds a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Anything but loopback needs --expose and a key.")] = "127.0.0.1",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="TUNESMITH_API_KEY", help="Clients must send it.", show_default=False),
    ] = None,
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines in; unencrypted.")] = False,
    seats: Annotated[int, typer.Option(min=1, help="Requests that may wait at one time; one more gets 429.")] = 16,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds that one request may take.")] = 600.0,
) -> None:
    """Answer OpenAI's chat completions on this machine, with base and tuned as two models.

    Example: tunesmith serve runs/quickstart
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"`tunesmith serve` needs {' and '.join(missing)}: pip install 'tunesmith[serve]'")
    if api_key == "":
        raise InputError("the API key is empty; give one, or leave it out")
    app, server = part("serve.app"), part("serve.server")
    rules = app.Rules(key=api_key, is_exposed=expose, num_seats=seats, timeout_s=timeout_s)
    server.check(host, rules)
    screen = show.Screen()
    with server.bound(host, port) as door:  # before the model is loaded: a taken port shows at once
        screen.say(f"loading {target}")
        opened = part("opened").open_any(target)
        with suppress(KeyboardInterrupt):  # the server has stopped by itself when it comes
            server.run(opened, door, rules, screen.say)
        screen.say("stopped")
