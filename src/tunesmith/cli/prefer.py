"""`tunesmith prefer`: a model's own answers, compared by a judge or a reward, as rows to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import show
from tunesmith.cli.evaluate import KEY, WHAT
from tunesmith.cli.options import Json, part
from tunesmith.errors import InputError


def prefer(
    source: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Rows with a prompt; other columns are facts.")],
    model: Annotated[str, typer.Option(help="Who answers. " + WHAT)],
    out: Annotated[Path, typer.Option(help="The file of rows, .jsonl, that is written.")],
    judge: Annotated[str | None, typer.Option(help="Who compares, in both orders: named as --model is.")] = None,
    rubric: Annotated[Path | None, typer.Option(help="A text that says what makes an answer better.")] = None,
    reward: Annotated[
        Path | None, typer.Option(help="Instead of a judge: a recipe with reward:, a grader, or a reward model.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="Write the best answers alone, to imitate them.")] = False,
    least: Annotated[float | None, typer.Option(help="With --best: the least reward of a row that is written.")] = None,
    num: Annotated[int, typer.Option("--n", help="Answers to each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Of sampling.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Of an answer; one that is cut off there is left out.")] = 256,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    instruction: Annotated[str | None, typer.Option(help="Else that of the run which answers; '' for none.")] = None,
    cases: Annotated[int | None, typer.Option(help="Ask at most this many prompts, drawn by their hash.")] = None,
    key_env: Annotated[str | None, typer.Option(help=KEY + "--model.")] = None,
    judge_key_env: Annotated[str | None, typer.Option(help=KEY + "--judge.")] = None,
    yes_send: Annotated[bool, typer.Option("--yes-send", help="Prompts and answers may leave this machine.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with answers that were stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Sample several answers to each prompt, let a judge or a reward compare them, and write pairs to learn from.

    Example: tunesmith prefer prompts.jsonl --model runs/a --judge http://127.0.0.1:8001/v1#big --out pairs.jsonl
    """
    if (judge is None) == (reward is None):
        raise InputError("wanted is either --judge, a model that compares answers, or --reward, which grades each")
    unread = {"--rubric": rubric, "--judge-key-env": judge_key_env} if judge is None else {"--least": least}
    if said := [name for name, value in unread.items() if value is not None]:
        raise InputError(f"{', '.join(said)} is not read with --{'reward' if judge is None else 'judge'}: leave it out")
    job, samplers, choosers = part("prefer"), part("samplers"), part("choosers")
    draw = samplers.Draw(num, temperature, max_tokens, seed, instruction).several()
    place = part("rows_out").Place(out, "prefer")
    place.check(resume=resume)
    who = samplers.sampler(model, key_env, may_send=yes_send)
    if judge is not None:
        by = choosers.by_judge(judge, judge_key_env, rubric, may_send=yes_send, is_best=best)
    else:
        by = choosers.by_reward(reward, place.kept, is_best=best, least=least)
    with show.Screen(quiet=as_json) as tell:
        found = job.prefer(source, who, draw, by, place, tell, cases)
    if as_json:
        show.out(json.dumps({**found, "out": str(out)}, ensure_ascii=False))
        return
    for line in told(found, out, place):
        show.out(line)


def told(found: dict[str, Any], out: Path, place: Any) -> list[str]:
    """The summary."""
    what = "pairs" if "rejected_words" in found else "rows"
    said = [
        f"{out}: {found['num_rows']} {what}, of {found['num_prompts']} prompts with {found['num_answers']} answers "
        f"each and {found['num_compared']} comparisons"
    ]
    said += [f"left out: {num} x {why}" for why, num in found["left_out"].items()]
    by = found["chooser"]
    if by.get("contradicted_frac") is not None:
        said.append(
            f"the judge contradicted itself in {by['contradicted_frac']:.0%} of the comparisons, and gave "
            f"{by['first_place']:.0%} of its votes to the answer that stood first (50% is fair)"
            if by["first_place"] is not None
            else "no vote of the judge could be read"
        )
    if what == "pairs":
        said.append(
            f"chosen answers have {found['chosen_words']:.1f} words, rejected ones {found['rejected_words']:.1f}; the "
            f"chosen one is the longer in {found['chosen_longer_frac']:.0%}"
        )
    people = found["people"]
    if people["num_pairs"] and people["num_concluded"]:
        low, high = people["interval"]
        said.append(
            f"agrees with people in {people['agreement']:.0%} of {people['num_concluded']} of their pairs (interval "
            f"{low:.0%} to {high:.0%}; 50% is chance); of {people['num_pairs'] - people['num_concluded']} more it "
            "says nothing"
        )
    elif people["num_pairs"]:
        said.append(f"nothing is concluded of any of the {people['num_pairs']} pairs of people's")
    else:
        said.append(
            "nobody checked these choices: prompts with pairs of people's (chosen, rejected) would tell how far"
        )
    said += [f"note: {note}" for note in found["notes"]]
    return [*said, f"who sampled and who chose: {place.about}; what was left out: {place.ledger}"]
