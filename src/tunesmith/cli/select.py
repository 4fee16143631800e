"""`tunesmith select`: which rows of a pool to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.options import Json, Model, Set, part
from tunesmith.errors import InputError, did_you_mean

SPREAD = "two rows drawn at random are about 1.4 apart"


def select(
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="Files of rows, or a folder with a train file.")],
    keep: Annotated[int, typer.Option(help="How many rows are kept.")],
    by: Annotated[str, typer.Option(help="random, length, diversity, difficulty, influence or semdedup.")],
    out: Annotated[Path, typer.Option(help="The file of rows, .jsonl, that is written.")],
    model: Model = None,
    dev: Annotated[list[Path] | None, typer.Option(help="influence: rows of the kind that is to get better.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn, and of ties.")] = 0,
    sets: Set = None,
    as_json: Json = False,
) -> None:
    """Choose the rows worth learning from, and write them as they stood, with a ledger of every row.

    Example: tunesmith select pool.jsonl --keep 1000 --by diversity --out chosen.jsonl
    """
    job, recipe = part("selection"), part("recipe")
    if by not in job.METHODS:
        raise InputError(f"--by is {by!r}; wanted one of {', '.join(job.METHODS)}.{did_you_mean(by, job.METHODS)}")
    if keep < 1:
        raise InputError(f"--keep is {keep}; wanted a number above 0")
    said = dict(recipe.override(s) for s in sets or [])
    unread = [f"--set {key}" for key in said if not key.startswith(job.keys_read(by))]
    unread += ["--model"] if model and by in job.UNASKED else []
    unread += ["--dev"] if dev and by != "influence" else []
    if unread:
        read = ", ".join(f"{key}…" if key.endswith(".") else key for key in job.keys_read(by))
        raise InputError(f"{', '.join(unread)} is not read with --by {by}: leave it out. --set may say {read}")
    said |= {"data.train": data} | ({"data.dev": [str(p) for p in dev]} if dev else {})
    asked, _ = recipe.read(None, said | ({"model": model} if model else {}))
    place = part("rows_out").Place(out, "select")
    place.check(resume=False)
    part("sources").check_files(asked)
    with show.Screen(quiet=as_json) as tell:
        found = job.choose(asked, job.Wanted(by, keep, seed), place, tell)
    if as_json:
        show.out(json.dumps({**found, "out": str(out)}, ensure_ascii=False))
        return
    for line in told(found, out, place, job.ledger_of(place)):
        show.out(line)


def told(found: dict[str, Any], out: Path, place: Any, ledger: Path) -> list[str]:
    """The summary."""
    said = [f"{out}: {found['num_kept']} of {found['num_pool']} rows, by {found['by']}"]
    said += [f"left out before: {num} x {why}" for why, num in found["left_out"].items()]
    chars = found["reply_chars"]
    said.append(f"replies have {chars['kept']:.0f} characters in the mean; {chars['pool']:.0f} in the pool")
    if "radius" in found:
        cover = found["radius"]
        said.append(
            f"no row of the pool is farther than {cover['kept']:.3f} from a kept one; with as many drawn at random "
            f"{cover['random']:.3f} ({SPREAD})"
        )
    if "difficulty" in found:
        ifd, hard = found["difficulty"]["ifd"], found["difficulty"]
        said.append(
            f"IFD of the kept rows {ifd['least']:.3f} to {ifd['most']:.3f}, median of the pool "
            f"{ifd['pool_median']:.3f}; {hard['num_unrelated']} replies are no likelier behind their prompt "
            f"(1 and more), {hard['num_unrelated_kept']} of them kept: look whether they belong to it"
        )
    if "cosine" in found:
        cosine = found["cosine"]
        said.append(
            f"mean cosine with the gradients of {found['num_dev']} dev rows: {cosine['kept']:.4f} of the kept rows, "
            f"{cosine['pool']:.4f} of the pool"
        )
    if "nearest" in found:
        far = found["nearest"]
        rest = "" if "left_out" not in far else f", a row that is left out at most {far['left_out']:.3f}"
        said.append(f"a kept row is at least {far['kept']:.3f} from every earlier row{rest} ({SPREAD})")
    if "test" not in found["held_out"]:
        said.append(
            "note: a test set drawn from chosen rows is chosen too. Hold one out before: a folder with train and test "
            "files, or tunesmith run --test FILE"
        )
    return [*said, f"every row, kept or not, with its score: {ledger}; settings and digests: {place.about}"]
