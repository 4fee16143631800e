"""`tunesmith ask`: what people are best asked for, as a sheet, and what they said, as rows to learn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.evaluate import KEY, WHAT
from tunesmith.cli.judge import beside
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError

NUM = 100  # rows or prompts
OF_ROWS = ("by", "labels")
OF_PAIRS = ("against", "twice", "temperature", "max_tokens", "instruction", "seed", "key_env", "yes_send", "resume")
OF_SHEETS = ("model", "num", *OF_ROWS, *OF_PAIRS)  # which read nothing back


def ask(
    pool: Annotated[Path | None, typer.Argument(metavar="[POOL]", help="Rows without an answer.")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="People choose between two answers of a model.")] = False,
    model: Annotated[str | None, typer.Option(help="Who is uncertain, or answers. " + WHAT)] = None,
    against: Annotated[str | None, typer.Option(help="With --pairs: who gives the other answer; else --model.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the sheet here: .csv or .xlsx.")] = None,
    num: Annotated[int | None, typer.Option(help="Most rows, or prompts, that people are asked about: 100.")] = None,
    by: Annotated[str | None, typer.Option(help="both (the default), uncertainty or diversity.")] = None,
    labels: Annotated[str | None, typer.Option(help="What may be answered, a,b,c; else the run's labels.")] = None,
    twice: Annotated[float | None, typer.Option(help="Share of pairs that stand there twice: 0.1.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling the answers: 1.0.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer: 256; one cut off there is left out.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Before each prompt; else the run's; '' for none.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of sampling the answers: 0.")] = None,
    read: Annotated[list[Path] | None, typer.Option(help="A filled sheet; again for each further person.")] = None,
    key: Annotated[Path | None, typer.Option(help="What the sheet is of; beside the sheet without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --read: the file of rows, .jsonl, that is written.")] = None,
    key_env: Annotated[str | None, typer.Option(help=KEY + "--model.")] = None,
    yes_send: Annotated[bool, typer.Option("--yes-send", help="Prompts may leave this machine.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Write a sheet of the rows most worth a label, or of answer pairs to choose between, and read it back.

    Example: tunesmith ask pool.csv --model runs/first --sheet to_label.csv
    """
    if (sheet is None) == (not read):
        raise InputError(
            "one of the two is wanted: `tunesmith ask POOL --model MODEL --sheet FILE` writes a sheet, `tunesmith ask "
            "--read FILE --out ROWS.jsonl` reads it back"
        )
    given = {"model": model, "num": num, "by": by, "labels": labels, "against": against, "twice": twice,
             "temperature": temperature, "max_tokens": max_tokens, "instruction": instruction, "seed": seed, "out": out,
             "key_env": key_env, "yes_send": yes_send or None, "resume": resume or None}  # fmt: skip
    said = {name: value for name, value in given.items() if value is not None}
    if read:
        if out is None:
            raise InputError("--read wants --out: the file of rows, .jsonl, that is written")
        if pool is not None:
            raise InputError(f"{pool} is not read with --read, whose key knows the pool: leave it out")
        refuse_unread(said, OF_SHEETS, "with --read")
        found = part("pair_sheet" if pairs else "label_sheet").read(read, key or beside(read[0]), out)
        lines = read_back(found, out, pairs=pairs)
    else:
        if pool is None or model is None or sheet is None:
            raise InputError("a sheet is of a pool and by a model: tunesmith ask POOL --model MODEL --sheet FILE")
        refuse_unread(said, ("out",), "with --sheet")
        refuse_unread(said, OF_ROWS if pairs else OF_PAIRS, "with --pairs" if pairs else "without --pairs")
        with show.Screen(quiet=as_json) as tell:
            place = (sheet, key or beside(sheet), tell)
            if pairs:
                found = pairs_to_choose(pool, model, said, place)
            else:
                found = rows_to_label(pool, model, said, place)
        lines = written(found, pairs=pairs)
    if as_json:
        show.out(json.dumps(found, ensure_ascii=False))
        return
    for line in lines:
        show.out(line)


def refuse_unread(said: dict[str, Any], names: Sequence[str], where: str) -> None:
    if unread := [f"--{name.replace('_', '-')}" for name in names if name in said]:
        raise InputError(f"{', '.join(unread)} is not read {where}: leave it out")


def pairs_to_choose(pool: Path, model: str, said: dict[str, Any], place: tuple[Path, Path, Any]) -> dict[str, Any]:
    samplers, job = part("samplers"), part("pair_sheet")
    draw = samplers.Draw(
        2, said.get("temperature", 1.0), said.get("max_tokens", 256), said.get("seed", 0), said.get("instruction")
    )
    wanted = job.Wanted(said.get("num", NUM), said.get("twice", 0.1), draw, "resume" in said)
    names = [model, *([said["against"]] if "against" in said else [])]
    who = [samplers.sampler(name, said.get("key_env"), may_send="yes_send" in said) for name in names]
    found: dict[str, Any] = job.write(pool, who, wanted, *place)
    return found


def rows_to_label(pool: Path, model: str, said: dict[str, Any], place: tuple[Path, Path, Any]) -> dict[str, Any]:
    by = said.get("by", "both")
    if by not in ("both", "uncertainty", "diversity"):
        raise InputError(f"--by is {by!r}; wanted both, uncertainty or diversity")
    names = [name.strip() for name in said.get("labels", "").split(",") if name.strip()]
    job = part("label_sheet")
    found: dict[str, Any] = job.write(model, pool, job.Wanted(said.get("num", NUM), by, tuple(names)), *place)
    return found


def written(found: dict[str, Any], *, pairs: bool) -> list[str]:
    """What lies where, and how it goes on."""
    sheet, key = found["sheet"], found["key"]
    left_out = [f"left out: {num} x {why}" for why, num in found["left_out"].items()]
    if pairs:
        twice = f", {found['num_twice']} of them twice" if found["num_twice"] else ""
        return [
            f"{sheet}: {found['num_pairs']} pairs of answers{twice}; choices A, B or tie",
            f"{found['page']}: the same as a page that needs no network; it saves a file to read back",
            f"{key}: which answer is which. Keep it from whoever chooses, and give each person a copy of their own",
            *left_out,
            f"read it back: tunesmith ask --pairs --read {sheet} --key {key} --out pairs.jsonl",
        ]
    return [
        f"{sheet}: {found['num_asked']} of {found['num_pool']} rows, the one most worth an answer first; the column "
        f"{found['column']!r} is to be filled in" + (f" with {', '.join(found['labels'])}" if found["labels"] else ""),
        *left_out,
        f"read it back: tunesmith ask --read {sheet} --key {key} --out labelled.jsonl",
    ]


def read_back(found: dict[str, Any], out: Path, *, pairs: bool) -> list[str]:
    said = [f"{out}: {found['num_rows']} rows, of what {found['num_readers']} filled in"]
    said += [f"left out: {num} x {why}" for why, num in found["left_out"].items()]
    said += [f"{name}: {num}" for name, num in (found.get("by_label") or found.get("preferred") or {}).items()]
    if found["num_shared"]:
        said.append(
            f"{found['num_readers']} people say the same in {found['agreement']:.0%} of {found['num_shared']} rows, "
            f"{found['kappa_kind']}'s kappa {number(found['kappa'])} (0 is chance, 1 is perfect)"
        )
    if pairs and found["num_twice"]:
        said.append(
            f"of {found['num_twice']} pairs that came twice, with sides changed, {found['same_again']:.0%} were chosen "
            f"alike, Cohen's kappa {number(found['kappa_again'])}"
        )
    if pairs and found["share_a"] is not None and found["share_a_p"] < 0.05:
        said.append(
            f"note: {found['share_a']:.0%} of the choices went to A; where answers stood decided more than chance."
        )
    return said


def number(kappa: float | None) -> str:
    return "not defined" if kappa is None else f"{kappa:.2f}"
