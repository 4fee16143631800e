"""`tunesmith synthesise`: rows that a model writes from yours: more of the kind, the same in other words, reasoning
that reaches the known answer, questions about documents. What each is made of, and by whom, stands in it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tunesmith.build import prompt_text, read_split
from tunesmith.data import ingest
from tunesmith.data.columns import Columns
from tunesmith.data.fill import is_template
from tunesmith.data.located import find_splits
from tunesmith.data.rows import Rejected, rows
from tunesmith.errors import DataError, InputError
from tunesmith.evals.endpoint import Spoken
from tunesmith.evaluated import stopping
from tunesmith.files import write_json
from tunesmith.folder import Teller
from tunesmith.novel import Novel
from tunesmith.prefer import write_lines
from tunesmith.recipe import read as recipe_of
from tunesmith.rows_out import Place
from tunesmith.samplers import Draw, Sampler, Turns
from tunesmith.stopping import Stop
from tunesmith.synthetic_kinds import KINDS, Kind, Made, Said, Work
from tunesmith.types import Example, Label, Message, Reply, Task

PASSAGE_CHARS = 1500  # of a document, that a question is asked about
SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
ROOM, LEAST_BEGUN = 1.25, 8  # times as many rows are begun as are still wanted, as some are left out; and at least
FRUITLESS = 3  # rounds without a row, after which it ends
CUT, UNASKED = "an answer is cut off at the limit", "could not be asked"


@dataclass(frozen=True, slots=True)
class Wanted:
    kind: str
    num: int  # rows
    draw: Draw
    most_requests: int | None = None
    most_tokens: int | None = None  # of answers: as many questions are asked as could not use more
    said: Said = field(default_factory=Said)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"--kind is {self.kind!r}; wanted one of {', '.join(KINDS)}")
        for name, value in (("num", self.num), ("requests", self.most_requests), ("tokens", self.most_tokens)):
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; wanted a number above 0")
        if self.requests() < len(KINDS[self.kind].steps):
            raise InputError("the budget is not enough for one row: give more --requests or --tokens")

    def requests(self) -> float:
        by_tokens = float("inf") if self.most_tokens is None else self.most_tokens // self.draw.max_new_tokens
        return min(by_tokens, float("inf") if self.most_requests is None else self.most_requests)


@dataclass(frozen=True, slots=True)
class Seeds:
    """`held_out`: prompts that no row may be like."""

    examples: tuple[Example, ...]
    held_out: tuple[str, ...]
    columns: Columns
    notes: tuple[str, ...]


def synthesise(seeds: Seeds, who: Sampler, wanted: Wanted, place: Place, tell: Teller) -> dict[str, Any]:
    """Asks in rounds until there are enough rows, or the budget is used up. Returns what stands beside the rows."""
    kind = KINDS[wanted.kind]
    novel = Novel([prompt_text(e) for e in seeds.examples], seeds.held_out, kind.above, kind.sizes)
    for line in who.sends(wanted.num):
        tell.say(line)
    place.kept.mkdir(parents=True, exist_ok=True)
    made, left_out = list[dict[str, Any]](), list[dict[str, Any]]()
    num_requests, fruitless, number, about = 0, 0, 0, dict[str, str]()
    with Stop(tell.say) as stop, stop.gently("what is being answered"):
        asking = Asking(who, wanted, place.kept, tell, stopping(stop, place.kept))
        while len(made) < wanted.num and fruitless < FRUITLESS:
            affordable = int(min(wanted.requests() - num_requests, 1e9)) // len(kind.steps)
            begun = min(affordable, max(LEAST_BEGUN, round(ROOM * (wanted.num - len(made)))))
            if not begun:
                break
            works = drawn(seeds.examples, kind, wanted, number, begun)
            about, num = asking.round(works, kind, number)
            num_requests += num
            before = len(made)
            for work in works:
                row = finished(work, kind, novel)
                if isinstance(row, str):
                    left_out.append({"made_from": sources(work), "reason": row, "said": work.said})
                elif len(made) < wanted.num:
                    made.append(row_of(row, work, seeds.columns, wanted, who.name))
            fruitless = 0 if len(made) > before else fruitless + 1
            number += 1
            tell.say(f"round {number}: {len(made)} of {wanted.num} rows, after {num_requests} questions")
    write_lines(place.ledger, left_out)
    if not made:
        reasons = "; ".join(f"{n} x {why}" for why, n in Counter(r["reason"] for r in left_out).most_common())
        raise DataError(f"{who.name} wrote no row to learn from: {reasons}. {place.ledger} holds each")
    facts = {
        "kind": wanted.kind, "model": {"name": who.name, **about}, "num_rows": len(made), "num_requests": num_requests,
        "most_requests": wanted.most_requests, "most_tokens": wanted.most_tokens, "num_seeds": len(seeds.examples),
        "num_held_out": len(seeds.held_out), "temperature": wanted.draw.temperature, "seed": wanted.draw.seed,
        "max_new_tokens": wanted.draw.max_new_tokens, "left_out": dict(Counter(r["reason"] for r in left_out)),
        "notes": [*seeds.notes, *enough(len(made), wanted, num_requests)],
    }  # fmt: skip
    write_json(place.about, facts)
    write_lines(place.out, made)
    shutil.rmtree(place.kept)
    return facts


def enough(num: int, wanted: Wanted, num_requests: int) -> list[str]:
    if num >= wanted.num:
        return []
    if num_requests + len(KINDS[wanted.kind].steps) > wanted.requests():
        return [f"the budget was used up at {num} of {wanted.num} rows."]
    return [f"{FRUITLESS} rounds brought no new row, so it ended at {num} of {wanted.num}."]


@dataclass(frozen=True, slots=True)
class Asking:
    who: Sampler
    wanted: Wanted
    kept: Path
    tell: Teller
    between: Callable[[], None]

    def round(self, works: Sequence[Work], kind: Kind, number: int) -> tuple[dict[str, str], int]:
        """Every step of these rows; (who answered, how many questions). Answers are kept by round and step."""
        about, num = dict[str, str](), 0
        for at, step in enumerate(kind.steps):
            open_ = [w for w in works if len(w.said) == at and not w.failed]
            turns = [step(w) for w in open_]
            for work in (w for w, t in zip(open_, turns) if not t):
                work.said.append("")
            asked = [(w, t) for w, t in zip(open_, turns) if t]
            if asked:
                about = self.answers(asked, number * len(kind.steps) + at)
                num += len(asked)
        return about, num

    def answers(self, asked: Sequence[tuple[Work, Turns]], number: int) -> dict[str, str]:
        kept = self.kept / f"{number:04d}"
        kept.mkdir(exist_ok=True)
        draw = replace(self.wanted.draw, seed=self.wanted.draw.seed + number)
        progress = lambda done, of: self.tell.step(done, of, f"answers of {self.who.name}")
        found = self.who.sample([t for _, t in asked], draw, kept, progress, self.between)
        for (work, _), said in zip(asked, found.answers, strict=True):
            spoken = Spoken(said, stopped=False) if isinstance(said, str) else said[0]
            if spoken.stopped or not isinstance(said, str):
                work.said.append(spoken.text)
            if not spoken.stopped:
                work.failed = UNASKED if isinstance(said, str) else CUT
        return dict(found.about)


def drawn(seeds: Sequence[Example], kind: Kind, wanted: Wanted, number: int, num: int) -> list[Work]:
    """By seed and round: each row begins with another seed until all had their turn. Beside a label stand its own."""
    random = Random(f"{wanted.draw.seed} {number}")
    order = random.sample(range(len(seeds)), len(seeds))
    works = []
    for k in range(num):
        first = seeds[order[k % len(order)]]
        target = first.target
        like = [e for e in seeds if e is not first and (not isinstance(target, Label) or e.target == target)]
        more = random.sample(like, min(kind.num_shown - 1, len(like)))
        works.append(Work((first, *more), wanted.said))
    return works


def finished(work: Work, kind: Kind, novel: Novel) -> Made | str:
    """The row, or why it is left out."""
    if work.failed:
        return work.failed
    row = kind.finish(work)
    return row if isinstance(row, str) else novel.refused(row[0], row[1] if not row[2] else "a label") or row


def sources(work: Work) -> list[str]:
    return [e.source for e in work.shown]


def row_of(row: Made, work: Work, columns: Columns, wanted: Wanted, who: str) -> dict[str, Any]:
    """In the columns of the seeds, so that both are read as one file; where it is from stands beside."""
    prompt, answer, is_label = row
    where = {"synthetic": wanted.kind, "made_by": who, "made_from": sources(work), "seed": wanted.draw.seed}
    if columns.messages is not None:
        turns = [Message("user", prompt).as_dict(), Message("assistant", answer).as_dict()]
        return {columns.messages: turns, **where}
    asked = columns.prompt[0] if columns.prompt and len(columns.prompt) == 1 else "prompt"
    said = columns.label if is_label else columns.reply
    said = said or ("label" if is_label else "completion")
    names = ["prompt" if is_template(asked) else asked, "completion" if is_template(said) else said]
    return {names[0]: prompt, names[1]: answer, **where}


def seeds_of(source: Path, held_out: Sequence[Path], kind: str) -> Seeds:
    """Of a recipe its training rows, its dev and test held out; of a file all rows; of documents their passages."""
    notes, kept_out = list[str](), list[Example]()
    if kind == "questions":
        (examples, notes), columns = passages(source), Columns()
    elif source.suffix.lower() in (".yaml", ".yml"):
        main, parts, _ = read_split(recipe_of(source, {})[0], None)
        examples, columns, kept_out = list(parts.train), main.columns, [*parts.dev, *parts.test]
    else:
        found = ingest.read([source])
        examples, columns = list(found.examples), found.columns
        if not held_out:
            notes.append(
                f"all rows of {source} were taken for training rows, so a run that splits this file may hold out the "
                "row that another was made of: name the recipe instead, or --held-out FILE."
            )
    for path in held_out:
        kept_out += ingest.read([path]).examples
    usable = tuple(e for e in examples if is_simple(e))
    if not usable:
        raise DataError(f"{source}: none of its {len(examples)} rows is one question with one answer")
    if len(usable) < len(examples):
        notes.append(f"{len(examples) - len(usable)} of {len(examples)} rows are no single question: left out.")
    return Seeds(usable, tuple(prompt_text(e) for e in kept_out), columns, tuple(notes))


def is_simple(example: Example) -> bool:
    """One question, and one answer that is known (or a passage)."""
    return (
        isinstance(example.target, (Reply, Label, Task))
        and [m.role for m in example.prompt if m.role != "system"] == ["user"]
        and not example.is_synthetic
    )


def passages(source: Path) -> tuple[list[Example], list[str]]:
    """Paragraphs of documents (a file, or all of a folder), as many together as fit; and what could not be read."""
    found, notes = list[Example](), list[str]()
    for path in find_splits(source)["train"]:
        for item in rows(path):
            if isinstance(item, Rejected):
                notes.append(f"{item}: left out.")
                continue
            held, number = "", 0
            for between, text in [*pieces(str(item[1].get("text") or "")), ("", "")]:
                if held and (not text or len(held) + len(between) + len(text) > PASSAGE_CHARS):
                    number += 1
                    name = f"{path}:{item[0]}#{number}"
                    found.append(Example(name, (Message("user", held),), Task({}), source=name))
                    held = ""
                held = held + between + text if held else text
    if not found:
        raise DataError(
            f"{source}: holds no text to ask about: wanted text, Markdown, HTML or PDF, or rows with a column 'text'. "
            + " ".join(notes[:3])
        )
    return found, notes


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """(what stands before it, piece): paragraphs; of one that is no passage by its length its sentences."""
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        between = "\n\n"
        for sentence in [paragraph] if len(paragraph) <= PASSAGE_CHARS else SENTENCE_END.split(paragraph):
            for at in range(0, len(sentence), PASSAGE_CHARS):
                yield between, sentence[at : at + PASSAGE_CHARS]
                between = " "
