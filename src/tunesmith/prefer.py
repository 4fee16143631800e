"""Rows to learn from out of a model's own answers: several to each prompt, of which a judge or a reward prefers some.

As pairs (RLAIF, Lee et al. 2023, arXiv:2309.00267; constitutional AI, Bai et al. 2022, arXiv:2212.08073), or the best
of n as a row to imitate (rejection sampling: RAFT, Dong et al. 2023, arXiv:2304.06767). Who sampled and who preferred
stands in each row, what was left out and why in a file beside.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunesmith import prompt_rows
from tunesmith.answered import Progress
from tunesmith.errors import DataError, InputError
from tunesmith.evals.stats import score_interval
from tunesmith.evaluated import stopping
from tunesmith.files import write_json, write_text
from tunesmith.folder import Teller
from tunesmith.rows_out import Place
from tunesmith.samplers import Draw, Sampled, Sampler, Turns
from tunesmith.stopping import Stop
from tunesmith.types import Example, Message

UNASKED, CUT, EMPTY = "the prompt cannot be asked", "the answer is cut off at the limit", "the answer is empty"
ALIKE, TOO_FEW = "all answers to the prompt are equal", "the prompt has too few whole answers"

LEAST_ROWS, ONE_SIDED = 10, 0.8  # pairs, and the share of them whose longer answer was chosen, of which a note speaks


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with the answers that can be learned from, no two of them alike. `turns`: as it was asked."""

    example: Example
    turns: Turns
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """`rejected` is None where the best answer is learned by itself. `why`: what it was preferred by."""

    group: Group
    chosen: str
    rejected: str | None
    why: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LeftOut:
    example: Example
    reason: str
    more: dict[str, Any]


@dataclass(frozen=True, slots=True)
class People:
    """What was preferred of pairs of which people prefer one. `agrees`: 1 or 0; None where nothing was concluded."""

    prompts: tuple[object, ...]
    agrees: tuple[float | None, ...]

    def facts(self) -> dict[str, Any]:
        """The share of those with a conclusion, pairs of one prompt together in its interval."""
        by_prompt: dict[object, list[float]] = {}
        for prompt, agrees in zip(self.prompts, self.agrees):
            if agrees is not None:
                by_prompt.setdefault(prompt, []).append(agrees)
        num = sum(map(len, by_prompt.values()))
        found: dict[str, Any] = {"num_pairs": len(self.agrees), "num_concluded": num}
        if not num:
            return found
        share = sum(map(sum, by_prompt.values())) / num
        centred = np.array([sum(a - share for a in each) / num for each in by_prompt.values()])
        interval = score_interval(share, centred, (0.0, 1.0), is_binary=len(by_prompt) == num)
        return {**found, "agreement": share, "interval": list(interval)}


@dataclass(frozen=True, slots=True)
class Chosen:
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    num_compared: int
    people: People
    about: dict[str, Any]
    notes: tuple[str, ...] = ()


class Chooser(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def num_needed(self) -> int: ...  # different answers to a prompt
    @property
    def asks(self) -> str: ...  # what its progress counts, before its name

    def sends(self, pairs: Sequence[Example]) -> list[str]: ...  # what leaves this machine, before it does

    def choose(
        self, groups: Sequence[Group], pairs: Sequence[Example], kept: Path, progress: Progress,
        between: Callable[[], None],
    ) -> Chosen: ...  # fmt: skip


def prefer(
    source: Path, sampler: Sampler, draw: Draw, chooser: Chooser, place: Place, tell: Teller, most: int | None = None
) -> dict[str, Any]:
    """Asks, compares and writes; returns what stands beside the rows. `most` prompts are asked."""
    found = prompt_rows.read(source, most)
    tell.say(f"{source}: {len(found.examples)} prompts, {len(found.pairs)} pairs of people's to check by")
    for line in (*sampler.sends(len(found.examples)), *chooser.sends(found.pairs)):
        tell.say(line)
    place.kept.mkdir(parents=True, exist_ok=True)
    try:
        with Stop(tell.say) as stop, stop.gently("what is being answered"):
            between = stopping(stop, place.kept)
            said = sampler.sample(
                [e.prompt for e in found.examples], draw, place.kept,
                lambda done, of: tell.step(done, of, f"answers of {sampler.name}"), between,
            )  # fmt: skip
            groups, unused = grouped(found.examples, said, chooser.num_needed)
            chosen = chooser.choose(
                groups, found.pairs, place.kept, lambda done, of: tell.step(done, of, f"{chooser.asks} {chooser.name}"),
                between,
            )  # fmt: skip
    except InputError:
        if not any(place.kept.iterdir()):  # a mistake that is mended is typed again
            place.kept.rmdir()
        raise
    left_out = (*unused, *chosen.left_out)
    write_lines(place.ledger, [ledger_row(one) for one in left_out])
    if not chosen.rows:
        raise DataError(nothing(left_out, place))
    facts = {
        "sampler": {"name": sampler.name, **said.about}, "chooser": {"name": chooser.name, **chosen.about},
        "source": str(source), "num_answers": draw.num, "temperature": draw.temperature,
        "max_new_tokens": draw.max_new_tokens, "seed": draw.seed, "num_prompts": len(found.examples),
        "num_compared": chosen.num_compared, "num_rows": len(chosen.rows),
        "left_out": dict(Counter(one.reason for one in left_out)), **(sizes := lengths(chosen.rows)),
        "people": chosen.people.facts(), "notes": [*found.notes, *chosen.notes, *by_length(sizes, len(chosen.rows))],
    }  # fmt: skip
    write_json(place.about, facts)
    write_lines(place.out, [row_of(row, sampler.name, chooser.name, draw) for row in chosen.rows])
    shutil.rmtree(place.kept)
    return facts


def grouped(examples: Sequence[Example], sampled: Sampled, num_needed: int) -> tuple[list[Group], list[LeftOut]]:
    """Prompts with enough different whole answers, and what is left out."""
    groups, left_out = list[Group](), list[LeftOut]()
    for example, turns, said in zip(examples, sampled.prompts, sampled.answers, strict=True):
        if isinstance(said, str):
            left_out.append(LeftOut(example, UNASKED, {"why": said}))
            continue
        whole = [s.text for s in said if s.stopped and s.text.strip()]
        left_out += [
            LeftOut(example, EMPTY if s.stopped else CUT, {"answer": s.text})
            for s in said
            if not (s.stopped and s.text.strip())
        ]
        once = tuple({" ".join(text.split()): text for text in reversed(whole)}.values())[::-1]
        if len(once) >= num_needed:
            groups.append(Group(example, turns, once))
        elif len(once) < len(whole):
            left_out.append(LeftOut(example, ALIKE, {"answer": once[0]}))
        else:
            left_out.append(LeftOut(example, TOO_FEW, {}))
    return groups, left_out


def row_of(row: Row, sampler: str, chooser: str, draw: Draw) -> dict[str, Any]:
    """As `tunesmith run` reads it, with where it is from."""
    example, turns = row.group.example, row.group.turns
    answer = Message("assistant", row.chosen)
    is_one = len(turns) == 1 and turns[0].role == "user" and not turns[0].extra
    made: dict[str, Any] = {"messages": [m.as_dict() for m in (*turns, answer)]}
    if row.rejected is not None:
        prompt = turns[0].content if is_one else [m.as_dict() for m in turns]
        made = {"prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}
    group = {"group": example.group} if example.group else {}
    where = {"sampled_by": sampler, "preferred_by": chooser, "seed": draw.seed, "answers": example.source}
    return {**made, **group, **example.slices, **where, **row.why}


def ledger_row(one: LeftOut) -> dict[str, Any]:
    return {"answers": one.example.source, "prompt": one.example.prompt[-1].content, "reason": one.reason, **one.more}


def write_lines(path: Path, found: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def lengths(found: Sequence[Row]) -> dict[str, float]:
    """In words. Of pairs also how often the chosen answer is the longer one, a tie half."""
    chosen = np.array([len(r.chosen.split()) for r in found], np.float64)
    said = {"chosen_words": float(chosen.mean())}
    if found[0].rejected is None:
        return said
    rejected = np.array([len((r.rejected or "").split()) for r in found], np.float64)
    longer = (np.sign(chosen - rejected) + 1) / 2
    return {**said, "rejected_words": float(rejected.mean()), "chosen_longer_frac": float(longer.mean())}


def by_length(sizes: dict[str, float], num_rows: int) -> list[str]:
    """That length alone would choose nearly the same."""
    longer = sizes.get("chosen_longer_frac", 0.5)
    if num_rows < LEAST_ROWS or max(longer, 1 - longer) < ONE_SIDED:
        return []
    which = "longer" if longer > 0.5 else "shorter"
    return [f"nearly always the {which} answer was chosen: look whether length is what you want."]


def nothing(left_out: Sequence[LeftOut], place: Place) -> str:
    """Why there is no row, and what to do."""
    reasons = "; ".join(f"{num} x {why}" for why, num in Counter(one.reason for one in left_out).most_common())
    return (
        f"no answer can be learned from: {reasons}. {place.ledger} holds each. The answers are kept: the same command "
        "with --resume and another judge or reward asks that alone. Answers that are cut off want a larger "
        "--max-tokens, ones that are alike a larger --n or --temperature"
    )
