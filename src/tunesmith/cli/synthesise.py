"""`tunesmith synthesise`: rows that a model writes from yours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.evaluate import KEY, WHAT
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError


def synthesise(
    seeds: Annotated[
        Path, typer.Argument(metavar="SEEDS", help="A recipe, whose training rows are used; a file; or documents.")
    ],
    kind: Annotated[
        str, typer.Option(help="expand, paraphrase, back-translation, rationale, or questions (about documents).")
    ],
    model: Annotated[str, typer.Option(help="Who writes. " + WHAT)],
    out: Annotated[Path, typer.Option(help="The file of rows, .jsonl, that is written.")],
    num: Annotated[int, typer.Option(help="How many rows are wanted.")] = 100,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="A file of cases that no row may be like.")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Ask at most so many questions.")] = None,
    tokens: Annotated[int | None, typer.Option(help="At most so many tokens of answers, whatever they use.")] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(help="Of an answer; one that is cut off there is left out.")] = 256,
    language: Annotated[
        str | None, typer.Option(help="Of the rows, what back-translation comes back to: English.")
    ] = None,
    through: Annotated[str | None, typer.Option(help="The language of back-translation: French.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling, and of which rows are shown.")] = 0,
    key_env: Annotated[str | None, typer.Option(help=KEY + "--model.")] = None,
    yes_send: Annotated[bool, typer.Option("--yes-send", help="Rows may leave this machine.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Let a model write rows from yours, leave out copies, refusals and what is like held-out cases, and say it all.

    Example: tunesmith synthesise recipe.yaml --kind expand --model http://127.0.0.1:8001/v1#big --out more.jsonl
    """
    job, samplers = part("synthesise"), part("samplers")
    draw = samplers.Draw(1, temperature, max_tokens, seed, "")
    ways = {name: value for name, value in (("language", language), ("through", through)) if value is not None}
    if ways and kind != "back-translation":
        raise InputError(f"--{', --'.join(ways)} is not read with --kind {kind}: leave it out")
    said = part("synthetic_kinds").Said(**ways)
    wanted = job.Wanted(kind, num, draw, requests, tokens, said)
    place = part("rows_out").Place(out, "synthesise")
    place.check(resume=resume)
    who = samplers.sampler(model, key_env, may_send=yes_send)
    found_seeds = job.seeds_of(seeds, held_out or [], kind)
    with show.Screen(quiet=as_json) as tell:
        found = job.synthesise(found_seeds, who, wanted, place, tell)
    if as_json:
        show.out(json.dumps({**found, "out": str(out)}, ensure_ascii=False))
        return
    show.out(f"{out}: {found['num_rows']} rows, after {found['num_requests']} questions; {place.about} says by whom")
    for why, times in found["left_out"].items():
        show.out(f"left out: {times} x {why}")
    for note in found["notes"]:
        show.out(f"note: {note}")
