"""`tunesmith export`: a finished run for other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError


def export(
    folder: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    to: Annotated[str, typer.Option(help="adapter, merged, gguf or ollama.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; the run's folder without it.")] = None,
    quant: Annotated[str, typer.Option(help="Of GGUF: f32, f16 or q8_0 (half of f16, a little rounded).")] = "f16",
    push: Annotated[str | None, typer.Option(help="Upload it to the hub as owner/name (private).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Upload without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's model for other programs, opened there and compared before it is called done.

    Example: tunesmith export runs/quickstart --to gguf
    """
    if quant not in ("f32", "f16", "q8_0"):
        raise InputError(f"--quant {quant} is not known; wanted f32, f16 or q8_0")
    hub = part("export.hub") if push else None
    if push and hub is not None:
        hub.may_push(push)
    with show.Screen(quiet=as_json) as tell:
        facts = part("deliver").deliver(folder, to, out, quant, tell)
        if out is None:
            part("sealed").seal_again(folder, [Path(facts["folder"]).name])
    if push and hub is not None:
        facts["pushed"] = _push(hub, hub.parcel(Path(facts["folder"]), push), yes=yes)
    if as_json:
        show.out(json.dumps(facts, ensure_ascii=False))
        return
    for line in lines(facts):
        show.out(line)


def _push(hub: Any, sent: Any, *, yes: bool) -> str | None:
    """Show what would leave this machine, ask, and send it. None where the answer is no."""
    typer.echo(f"to upload to {sent.repo} (private):", err=True)
    for name, size in sent.files:
        typer.echo(f"  {size / 1e6:10.2f} MB  {name}", err=True)
    if not yes and not sys.stdin.isatty():
        raise InputError("nobody is here to ask: add --yes to upload, or leave --push out")
    if not yes and not typer.confirm("Upload these files?", err=True):
        return None
    return str(hub.push(sent))


def lines(facts: dict[str, Any]) -> list[str]:
    """What was written and how it compared, for people."""
    found = [f"{facts['to']} is in {facts['folder']}, compared on {facts['prompts']} held-out cases:"]
    for who in ("peft", "transformers", "llama.cpp"):
        said = facts.get(who)
        if isinstance(said, dict):
            same = said.get("num_same_answers", said["num_same"])
            apart = f"{said['logit_diff']:.2g} of their spread"
            found.append(f"  {who}: {same} of {said['num_prompts']} greedy answers the same, logits within {apart}")
            if "whole_base_diff" in said:
                apart = f"{said['whole_base_diff']:.2g} of their spread from what was measured"
                found.append(f"  peft, on the base as it is instead of in fewer bits: logits {apart}")
        elif said is not None:
            found.append(f"  {who}: {said} (pip install 'tunesmith[llamacpp]' lets it check the file too)")
    if "measured_in" in facts:
        same = f"{facts['measured_same']} of {facts['prompts']} answers the same"
        apart = f"{facts['measured_diff']:.2g} of their spread"
        found.append(f"  measured in {facts['measured_in']}; these weights in float32: {same}, logits within {apart}")
    if "vllm" in facts:
        breaches = facts["vllm"]["breaches"]
        said = "; ".join(breaches) or f"keeps its rules; start it with --max-lora-rank {facts['vllm']['max_lora_rank']}"
        found.append(f"  vLLM (its rules, not run): {said}")
    if "modelfile" in facts:
        found.append(f"  Modelfile: {facts['modelfile']}")
        found.append(f"  next: cd {facts['folder']} && ollama create NAME -f Modelfile && ollama run NAME")
    if "pushed" in facts:
        found.append(f"  hub: {facts['pushed'] or 'not uploaded'}")
    return found
