"""`tunesmith import`: another tool's training file becomes a recipe, and nothing of it is lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

TONES = {"value": "yellow", "absent": "yellow", "unknown": "bold yellow", "meant": "cyan"}
SHORT = ("needless", "off", "same")  # listed by name only: nothing to decide


def import_(
    file: Annotated[Path, typer.Argument(help="A training file of Axolotl, LLaMA-Factory or TRL (YAML or JSON).")],
    out: Annotated[Path | None, typer.Option(help="The recipe to write; without it, it is printed.")] = None,
    tool: Annotated[str | None, typer.Option("--from", help="axolotl, llamafactory or trl; told by the keys.")] = None,
    as_json: Json = False,
) -> None:
    """A training file of Axolotl, LLaMA-Factory or TRL to a recipe; every key that changed is listed, with why.

    Example: tunesmith import axolotl.yml --out recipe.yaml
    """
    if out is not None and out.exists():
        raise InputError(f"{out} is there already: name another file with --out, or move it away")
    writing = part("importing.write")
    found = writing.read(file, tool)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found.text, encoding="utf-8")
    if as_json:
        show.out(
            json.dumps({**found.facts(), "out": None if out is None else str(out)}, ensure_ascii=False, default=str)
        )
        return
    tell(found, writing)
    if out is None:
        show.out(found.text)
    else:
        told = Text(f"recipe: {out}   next: {next_step(found, out)}", style="bold")
        Console(stderr=True, highlight=False).print(told)


def next_step(found: Any, out: Path) -> str:
    has_data = bool(found.settings.get("data", {}).get("train"))
    return f"tunesmith plan {out}" if has_data else f"tunesmith plan {out} --data FILE (it names no data)"


def tell(found: Any, writing: Any) -> None:
    """What became of the keys, on standard error: the recipe itself may be going to standard output."""
    console = Console(stderr=True, highlight=False)
    done, total = writing.num_translated(found.keys), len(found.keys)
    console.print(Text(f"{writing.TOOLS[found.tool].shown}: {done} of {total} keys translated", style="bold"))
    for fate, keys in found.by_fate().items():
        if not keys:
            continue
        console.print(Text(f"{writing.FATES[fate]} ({len(keys)})", style=TONES.get(fate, "dim")))
        if fate in SHORT:
            console.print(Text("  " + ", ".join(k.key for k in keys), style="dim"), soft_wrap=False)
            continue
        for key in keys:
            ours = f" -> {key.ours}" if key.ours else ""
            console.print(Text(f"  {key.key}: {writing.shown(key.value, 40)}{ours}"), Text(f"({key.why})", style="dim"))
