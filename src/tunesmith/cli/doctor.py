"""`tunesmith doctor`: is this machine ready."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part

TONES = {"ok": "green", "slow": "bold yellow", "broken": "bold red"}
SHOWN = {"ok": "ok", "slow": "look", "broken": "BROKEN"}


def doctor(as_json: Json = False) -> None:
    """What is wrong or slow on this machine, each with what to type. Exit code 1 when something is broken.

    Example: tunesmith doctor
    """
    found = examined()
    broken = [f for f in found if f["state"] == "broken"]
    if as_json:
        show.out(json.dumps({"broken": len(broken), "findings": found}, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        for finding in found:
            line = Text(f"{SHOWN[finding['state']]:7}", style=TONES[finding["state"]])
            console.print(line + Text(f"{finding['topic']}: {finding['found']}", style=""), soft_wrap=True)
            if finding["advice"]:
                console.print(Text(f"       -> {finding['advice']}", style="dim"), soft_wrap=True)
        worst = f"{len(broken)} things are broken" if len(broken) > 1 else "one thing is broken"
        console.print(Text(worst if broken else "nothing is broken", style="bold"))
    if broken:
        raise typer.Exit(1)


def examined() -> list[dict[str, Any]]:
    """The findings; where a package that everything needs cannot be imported, that one."""
    try:
        return [finding.facts() for finding in part("doctor").examine()]
    except (ImportError, OSError) as error:  # OSError: a library of the system that torch wants is not there
        what = f"a package cannot be imported: {type(error).__name__}: {error}"
        return [{"topic": "packages", "state": "broken", "found": what, "advice": "pip install -U tunesmith"}]
