"""`tunesmith distil`: a teacher's answers, as rows to learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import show
from tunesmith.cli.evaluate import KEY, WHAT
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError


def distil(
    teacher: Annotated[str, typer.Argument(help=WHAT)],
    data: Annotated[list[str], typer.Option(help="A file whose prompts are asked; its own replies are not used.")],
    out: Annotated[Path, typer.Option(help="The file of rows, .jsonl, that is written.")],
    instruction: Annotated[str | None, typer.Option(help="Else that of the task; '' for none.")] = None,
    cases: Annotated[int | None, typer.Option(help="Ask at most this many, drawn by the hash of their ids.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer; else a quarter more than the replies.")] = None,
    key_env: Annotated[str | None, typer.Option(help=KEY + "TEACHER.")] = None,
    yes_send: Annotated[bool, typer.Option("--yes-send", help="Prompts may leave this machine.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Let a teacher, on this machine or behind an address, answer your prompts, and write rows to learn from.

    Example: tunesmith distil http://127.0.0.1:8001/v1#big-model --data rows.jsonl --out taught.jsonl
    """
    job, questions, answerers = part("distilled"), part("questions"), part("answerers")
    place = part("rows_out").Place(out, "teacher")
    place.check(resume=resume)
    who = answerers.answerer(teacher, key_env, may_send=yes_send)
    asked = questions.of_files(data, questions.Said(None, cases, None, instruction))
    if max_tokens is not None:
        if max_tokens < 1:
            raise InputError(f"--max-tokens is {max_tokens}; wanted a number above 0")
        asked = replace(asked, max_new_tokens=max_tokens)
    with show.Screen(quiet=as_json) as tell:
        answerers.announce(who, asked, tell.say)
        found = job.distil(who, asked, place, tell)
    if as_json:
        show.out(json.dumps({**found, "out": str(out)}, ensure_ascii=False))
        return
    show.out(f"{out}: {found['num_rows']} rows, of {found['num_asked']} prompts; {place.about} says by whom")
    for note in found["notes"]:
        show.out(f"note: {note}")
