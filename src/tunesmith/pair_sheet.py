"""`tunesmith ask --pairs`: answers that a model gives to your prompts, two side by side, for people to choose between.

The sheet is blind, as that of `tunesmith judge` is, and some pairs stand on it twice with sides changed: how often a
person says the same again. What people chose is read back as preference rows.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tunesmith import prompt_rows
from tunesmith.blind import (
    CHOICES,
    COLUMNS,
    Contest,
    Key,
    Placed,
    agreement,
    check_free,
    choices,
    favour,
    marked,
    mean_of,
    to_fill_in,
)
from tunesmith.build import prompt_text
from tunesmith.errors import DataError, InputError
from tunesmith.evals.judge import cohens_kappa
from tunesmith.evaluated import stopping
from tunesmith.files import read_json, write_json, write_text
from tunesmith.folder import Teller
from tunesmith.prefer import Group, grouped, ledger_row, write_lines
from tunesmith.report import choose_page
from tunesmith.report.words import things
from tunesmith.rows_out import Place
from tunesmith.samplers import Draw, Sampled, Sampler
from tunesmith.stopping import Stop

LATER = 0.5  # of the sheet, by which a pair is at least behind the place where it stood first


@dataclass(frozen=True, slots=True)
class Wanted:
    num: int  # most prompts
    twice_frac: float  # of the pairs, that stand there twice
    draw: Draw
    resume: bool = False
    order: int | None = None  # seed of order and sides, for tests; None: drawn

    def __post_init__(self) -> None:
        if not 0 <= self.twice_frac <= 1:
            raise InputError(f"--twice is {self.twice_frac:g}; wanted a share from 0 to 1")


def page_of(sheet: Path) -> Path:
    return sheet.with_suffix(".html")


def write(pool: Path, who: Sequence[Sampler], wanted: Wanted, sheet: Path, key: Path, tell: Teller) -> dict[str, Any]:
    """Asks one model twice, or two models, and writes sheet, page and key."""
    check_free(sheet, key, page_of(sheet))
    place = Place(sheet, "ask")
    if place.kept.exists() and not wanted.resume:
        raise InputError(f"{place.kept} holds answers of a stopped command: add --resume to go on, or remove it")
    found = prompt_rows.read(pool, wanted.num)
    place.kept.mkdir(parents=True, exist_ok=True)
    said = []
    with Stop(tell.say) as stop, stop.gently("what is being answered"):
        for number, one in enumerate(who):
            for line in one.sends(len(found.examples)):
                tell.say(line)
            kept = place.kept / str(number)
            kept.mkdir(exist_ok=True)
            draw = replace(wanted.draw, num=1) if len(who) > 1 else wanted.draw.several()
            said.append(
                one.sample(
                    [e.prompt for e in found.examples], draw, kept,
                    lambda done, of, name=one.name: tell.step(done, of, f"answers of {name}"),  # type: ignore[misc]
                    stopping(stop, kept),
                )
            )  # fmt: skip
    both = beside(said)
    groups, left_out = grouped(found.examples, both, 2)
    if not groups:
        raise DataError(f"no prompt has two different whole answers: {dict(Counter(o.reason for o in left_out))}")
    names = (who[0].name, who[-1].name)
    made = placed(
        groups, names, wanted.twice_frac, Random(secrets.randbits(64) if wanted.order is None else wanted.order)
    )
    to_fill_in(sheet, COLUMNS, made.lines(), {"choice": CHOICES})
    write_text(page_of(sheet), choose_page.page(sheet.stem, made.lines()))
    turns = {g.example.id: [m.as_dict() for m in g.turns] for g in groups}
    sources = {g.example.id: g.example.source for g in groups}
    about = {"sampled_by": [{"name": one.name, **s.about} for one, s in zip(who, said)], "seed": wanted.draw.seed}
    write_json(key, {**asdict(made), "turns": turns, "sources": sources, **about})
    write_lines(place.ledger, [ledger_row(one) for one in left_out])
    shutil.rmtree(place.kept)
    return {
        "sheet": str(sheet), "page": str(page_of(sheet)), "key": str(key), "num_prompts": len(found.examples),
        "num_pairs": len(groups), "num_twice": len(made.placed) - len(groups), "ledger": str(place.ledger),
        "left_out": dict(Counter(o.reason for o in left_out)),
    }  # fmt: skip


def beside(said: Sequence[Sampled]) -> Sampled:
    """The answers of two models as two of one."""
    if len(said) == 1:
        return said[0]
    one, two = said
    answers = tuple(a if isinstance(a, str) else b if isinstance(b, str) else (*a, *b)
                    for a, b in zip(one.answers, two.answers, strict=True))  # fmt: skip
    return Sampled(one.about, one.prompts, answers)


def placed(groups: Sequence[Group], names: tuple[str, str], twice_frac: float, random: Random) -> Key:
    """In a drawn order and with drawn sides. A pair that stands there twice has its sides changed the second time."""
    order = [Contest(g.example.id, g.example.group, prompt_text(g.example), g.answers[:2]) for g in groups]  # type: ignore[arg-type]
    random.shuffle(order)
    sides = {one.example_id: random.randrange(2) for one in order}
    num = round(twice_frac * len(order))
    rows = [(one, sides[one.example_id]) for one in order]
    half = int(LATER * len(order))
    again = random.sample(order[: max(half, num)], num)
    for one in again:
        first = next(k for k, (other, _) in enumerate(rows) if other is one)
        rows.insert(random.randint(min(first + half + 1, len(rows)), len(rows)), (one, 1 - sides[one.example_id]))
    mark = marked(random)
    return Key(names, tuple(Placed(f"{mark}-{n}", a, one) for n, (one, a) in enumerate(rows, 1)), ())


def read(sheets: Sequence[Path], key_path: Path, out: Path) -> dict[str, Any]:
    """Writes preference rows, a line for each pair that readers lean on a side of, and what is left out beside."""
    place = Place(out, "ask")
    place.check(resume=False)
    key, kept = Key.read(key_path), read_json(key_path)
    if "turns" not in kept:
        raise InputError(f"{key_path} is the key of a `tunesmith judge` sheet: tunesmith judge --read {sheets[0]}")
    said = [choices(path, key) for path in sheets]
    once = [folded(votes, key) for votes in said]
    rows, left_out = [], []
    for one in {p.contest.example_id: p.contest for p in key.placed}.values():
        votes = [v[one.example_id] for v in once if one.example_id in v]
        share = mean_of(votes)
        source = {"answers": kept["sources"][one.example_id]}
        if share is None or share == 0.5:
            reason = "nobody chose" if share is None else "people are of two minds"
            left_out.append({**source, "prompt": one.prompt, "reason": reason})
            continue
        better = int(share > 0.5)
        by = {"preferred_by": things(len(votes), "person", "people"), "agreement": max(share, 1 - share),
              "sampled_by": [key.models[better], key.models[1 - better]]}  # fmt: skip
        pair = {"chosen": one.answers[better], "rejected": one.answers[1 - better]}
        group = {"group": one.group} if one.group else {}
        rows.append({"prompt": shown(kept["turns"][one.example_id]), **pair, **group, **by, **source})
    if not rows:
        raise InputError(f"no choice to learn from: {dict(Counter(row['reason'] for row in left_out))}")
    facts = {
        "models": list(key.models), "num_rows": len(rows), "num_readers": len(said),
        "left_out": dict(Counter(row["reason"] for row in left_out)), **agreement(once), **favour(said, key),
        **again(said, key), "sampled_by": kept["sampled_by"], "sheets": [str(s) for s in sheets],
    }  # fmt: skip
    if key.models[0] != key.models[1]:
        facts["preferred"] = dict(Counter(row["sampled_by"][0] for row in rows))
    write_lines(place.ledger, left_out)
    write_json(place.about, facts)
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return facts


def shown(turns: list[dict[str, Any]]) -> Any:
    """One question as a text, anything longer as its messages."""
    is_one = len(turns) == 1 and set(turns[0]) == {"role", "content"} and turns[0]["role"] == "user"
    return turns[0]["content"] if is_one else turns


def folded(votes: Mapping[str, float], key: Key) -> dict[str, float]:
    """Pair -> 1, 0 or 1/2 of one person; who contradicts himself on a pair that stands there twice is undecided."""
    by_pair: dict[str, list[float]] = {}
    for one in key.placed:
        if one.case in votes:
            by_pair.setdefault(one.contest.example_id, []).append(votes[one.case])
    means = {pair: sum(found) / len(found) for pair, found in by_pair.items()}
    return {pair: float(mean > 0.5) if mean != 0.5 else 0.5 for pair, mean in means.items()}


def again(said: Sequence[Mapping[str, float]], key: Key) -> dict[str, Any]:
    """How far people agree with themselves, on pairs that stood there twice, sides changed."""
    places: dict[str, list[str]] = {}
    for one in key.placed:
        places.setdefault(one.contest.example_id, []).append(one.case)
    twice = [cases for cases in places.values() if len(cases) == 2]
    both = [(v[a], v[b]) for v in said for a, b in twice if a in v and b in v]
    if not both:
        return {"num_twice": 0, "same_again": None, "kappa_again": None}
    return {
        "num_twice": len(both), "same_again": mean_of([float(a == b) for a, b in both]),
        "kappa_again": cohens_kappa([(str(a), str(b)) for a, b in both]),
    }  # fmt: skip
