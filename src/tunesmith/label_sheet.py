"""`tunesmith ask`: which rows of an unlabelled pool are most worth a label, on a sheet that people fill in.

Uncertain ones: the entropy of the label probabilities (Settles 2009), of a text the mean nats per token of the model's
own answer. Diverse ones: k-centre on the model's embeddings of the prompts (Sener and Savarese 2018, arXiv:1708.00489).
Both: k-centre among the most uncertain.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from tunesmith import prompt_rows
from tunesmith.answerers import about
from tunesmith.blind import agreement, cells, check_free, marked, to_fill_in
from tunesmith.build import prompt_text
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.rows import Rejected, Row, rows
from tunesmith.data.select import k_centre, scaled
from tunesmith.data.split import Ledger, keys_of
from tunesmith.errors import DataError, InputError
from tunesmith.files import read_json, sha256_text, write_json, write_text
from tunesmith.folder import Teller
from tunesmith.opened import TUNED, Opened, Served, open_any
from tunesmith.predict import Prediction, Predictor, Unusable, calibration_of
from tunesmith.predict_file import prompt_names
from tunesmith.prefer import write_lines
from tunesmith.report.words import things
from tunesmith.row_scores import Desk, embeddings
from tunesmith.rows_out import Place
from tunesmith.stopping import Stop
from tunesmith.types import Example, Message, Record, Segment, Task

By = Literal["both", "uncertainty", "diversity"]
AMONG = 5  # times as many rows as are asked for: the most uncertain ones, among which diverse ones are taken
LEAST_SHARE = 1e-4  # as probabilities are rounded
KNOWN, TWICE = "stands in the run's data already", "stands in the pool twice"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`labels`: what may be answered; () for those of the run."""

    num: int  # most rows
    by: By = "both"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num < 1:
            raise InputError(f"--num is {self.num}; wanted at least one row")


@dataclass(frozen=True, slots=True)
class Candidate:
    line: int
    row: Row
    example: Example


def write(model: str, pool: Path, wanted: Wanted, sheet: Path, key: Path, tell: Teller) -> dict[str, Any]:
    """Ranks the pool and writes the sheet, the row most worth a label first, and its key."""
    check_free(sheet, key)
    folder = Path(model) if (Path(model) / "serving.json").is_file() else None
    columns = columns_of(pool, Served.read(folder).columns if folder else None)
    found, left_out = candidates(pool, columns, folder)
    tell.say(f"{pool}: {len(found)} rows may be asked; the prompt is {', '.join(prompt_names(columns))}")
    opened = open_any(model)
    found, order, worth, unusable = ranked(opened, folder, found, wanted, tell)
    left_out += unusable
    taken = [found[i] for i in order[: wanted.num].tolist()]
    if not taken:
        raise DataError(f"{pool}: no row can be asked: {dict(Counter(left_out))}")
    names = wanted.labels or opened.served.labels
    mark = marked(Random(secrets.randbits(64)))
    asked = [(f"{mark}-{n}", one) for n, one in enumerate(taken, 1)]
    column = answer_column(columns, is_label=bool(names))
    lines = [{"row": name, "text": prompt_text(c.example), column: "", "comment": ""} for name, c in asked]
    to_fill_in(sheet, ("row", "text", column, "comment"), lines, {column: names} if names else {})
    facts = {
        "model": model, "by": wanted.by, "pool": str(pool), "column": column, "labels": list(names),
        "num_asked": len(taken), "num_pool": len(found), "left_out": dict(Counter(left_out)),
    }  # fmt: skip
    each = {
        name: {"line": c.line, "row": c.row, "uncertainty": None if worth is None else round(float(worth[i]), 4)}
        for (name, c), i in zip(asked, order.tolist())
    }
    write_json(key, {**facts, "rows": each})
    return {**facts, "sheet": str(sheet), "key": str(key)}


def columns_of(pool: Path, of_run: Columns | None) -> Columns:
    """Where the prompt stands: as in the run's data, or by its name."""
    if of_run is not None:
        there = {name for item in rows(pool) if not isinstance(item, Rejected) for name in item[1]}
        if set(prompt_names(of_run)) <= there:
            return of_run
    found = prompt_rows.columns_alone(pool)
    if found is None:
        raise InputError(f"the rows of {pool} have answers already; wanted a pool of rows without")
    return found


def candidates(pool: Path, columns: Columns, folder: Path | None) -> tuple[list[Candidate], list[str]]:
    """(rows that may be asked, why others may not). What the run learned from or holds out is asked of nobody."""
    found, left_out = list[Candidate](), list[str]()
    for item in rows(pool):
        if isinstance(item, Rejected):
            left_out.append(item.reason)
            continue
        line, row = item
        try:
            prompt = prompt_of(row, columns)
        except ValueError as error:
            left_out.append(str(error))
            continue
        group = row.get(columns.group) if columns.group is not None else None
        example = Example(str(line), prompt, Task({}), None if group is None else str(group), source=f"{pool}:{line}")
        found.append(Candidate(line, row, example))
    keys = keys_of([c.example for c in found]) if found else np.empty(0)
    _, firsts = np.unique([prompt_text(c.example) for c in found], return_index=True)
    is_first = np.isin(np.arange(len(found)), firsts)
    is_known = np.zeros(len(found), bool)
    if folder is not None and (folder / "ledger.json").is_file() and found:
        is_known = Ledger.load(folder / "ledger.json").places(keys) >= 0
    left_out += [KNOWN] * int(is_known.sum()) + [TWICE] * int((~is_first & ~is_known).sum())
    return [c for c, new in zip(found, is_first & ~is_known) if new], left_out


def ranked(
    opened: Opened, folder: Path | None, found: list[Candidate], wanted: Wanted, tell: Teller
) -> tuple[list[Candidate], np.ndarray, np.ndarray | None, list[str]]:
    """(rows that can be asked, numbers of them with the best first, their uncertainty, why others cannot)."""
    with Stop(tell.say, "the same command starts again") as stop, stop.gently("this batch of rows"):
        between = lambda: stop.check("stopped before the sheet was written")
        if wanted.by == "diversity":
            vectors = placed(opened, found, tell, between)
            return found, spread(vectors, np.arange(len(found)), wanted.num, tell), None, []
        predictor = Predictor(opened, calibration_of(folder) if folder else None, TUNED if opened.tuned else "base")
        said = predicted(predictor, [c.example.prompt for c in found], tell, between)
        why = [p.problem for p in said if p.problem]
        found = [c for c, p in zip(found, said) if not p.problem]
        worth = np.array([uncertainty(p, is_several=bool(opened.renderer.several)) for p in said if not p.problem])
        order = np.argsort(-worth, kind="stable")
        if wanted.by == "both":
            order = order[: AMONG * wanted.num]
            vectors = placed(opened, [found[i] for i in order.tolist()], tell, between)
            order = spread(vectors, order, wanted.num, tell)
        return found, order, worth, why


def spread(vectors: np.ndarray, order: np.ndarray, num: int, tell: Teller) -> np.ndarray:
    """At most `num` of the rows in `order` that lie apart, its first one first; `vectors` [n, D] are in that order."""
    step = lambda done, of: tell.step(done, of, "rows apart from each other")
    return order[k_centre(vectors, min(num, len(order)), 0, step)[0]]


def predicted(
    predictor: Predictor, prompts: Sequence[tuple[Message, ...]], tell: Teller, between: Callable[[], None]
) -> list[Prediction]:
    found: list[Prediction] = []
    for first in range(0, len(prompts), predictor.batch_rows):
        some: Sequence[tuple[Message, ...] | Unusable] = prompts[first : first + predictor.batch_rows]
        found += predictor(some)
        tell.step(len(found), len(prompts), "rows answered")
        between()
    return found


def uncertainty(said: Prediction, *, is_several: bool) -> float:
    """Nats: the entropy over the labels, of several labels the mean of each one's; else per token of the answer."""
    if said.probabilities is None:
        return float(-np.log(max(said.confidence or 0.0, LEAST_SHARE)))
    share = np.clip(list(said.probabilities.values()), LEAST_SHARE, 1)
    if is_several:
        other = np.clip(1 - share, LEAST_SHARE, 1)
        return float(-(share * np.log(share) + other * np.log(other)).mean())
    return float(-(share * np.log(share)).sum())


def placed(opened: Opened, found: Sequence[Candidate], tell: Teller, between: Callable[[], None]) -> np.ndarray:
    """[n, D] where the prompts lie."""
    desk = Desk(opened.session, opened.recipe.train.micro, tell.step, between, opened.tuned)
    records = [record(opened, c.example) for c in found]
    tokens = sha256_text(json.dumps([r.segments[0].tokens.tolist() for r in records]))
    return scaled(np.asarray(embeddings(desk, records, f"{about(opened)} {tokens}")))


def record(opened: Opened, example: Example) -> Record:
    """The prompt as it is asked; nothing of it is learned."""
    tokens = np.array(opened.prompt(example.prompt), np.int64)
    return Record(example.id, (Segment(tokens, np.zeros(len(tokens), np.float32)),))


def answer_column(columns: Columns, *, is_label: bool) -> str:
    """As the run's data call it."""
    if is_label:
        return columns.label or "label"
    return columns.reply if columns.reply is not None and "{" not in columns.reply else "completion"


def read(sheets: Sequence[Path], key: Path, out: Path) -> dict[str, Any]:
    """Writes rows to learn from, one for each on whose answer all readers agree; the rest stands in a file beside."""
    place = Place(out, "ask")
    place.check(resume=False)
    if not key.is_file():
        raise InputError(f"there is no key {key}: `tunesmith ask POOL --sheet FILE` wrote it beside the sheet")
    kept = read_json(key)
    if "column" not in kept:
        raise InputError(f"{key} is no key of a sheet of rows: add --pairs where it is of pairs")
    said = [answers(path, kept) for path in sheets]
    made, left_out = list[Row](), list[Row]()
    for name, asked in kept["rows"].items():
        votes = [v[name] for v in said if name in v]
        source = {"pool": f"{kept['pool']}:{asked['line']}"}
        if len(set(votes)) != 1:
            reason = "people differ" if votes else "left empty"
            left_out.append({**source, "reason": reason, "answers": votes, **asked["row"]})
            continue
        by = {
            "labelled_by": things(len(votes), "person", "people"),
            "asked_by": kept["by"],
            "uncertainty": asked["uncertainty"],
        }
        made.append({**asked["row"], kept["column"]: votes[0], **by, **source})
    write_lines(place.ledger, left_out)
    if not made:
        raise InputError(f"no answer to learn from: {dict(Counter(row['reason'] for row in left_out))}")
    facts = {
        **{k: kept[k] for k in ("model", "by", "pool")}, "num_rows": len(made), "num_readers": len(said),
        "left_out": dict(Counter(row["reason"] for row in left_out)), **agreement(said),
        "sheets": [str(s) for s in sheets],
    }  # fmt: skip
    if kept["labels"]:
        facts["by_label"] = dict(Counter(row[kept["column"]] for row in made))
    write_json(place.about, facts)
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made))
    return facts


def answers(path: Path, kept: Mapping[str, Any]) -> dict[str, str]:
    """Row -> what a person wrote; empty cells are left out. A label is read in any case of letters."""
    known = {str(name).casefold(): name for name in kept["labels"]}
    found: dict[str, str] = {}
    for name, (line, text) in cells(path, "row", kept["column"], kept["rows"]).items():
        if not text:
            continue
        if known and text.casefold() not in known:
            raise InputError(
                f"{path}:{line}: {text!r} is none of the labels ({', '.join(kept['labels'])}): correct it, leave it "
                "empty, or write the sheet with --labels"
            )
        found[name] = known.get(text.casefold(), text) if known else text
    if not found:
        raise InputError(f"{path} holds no answer yet: the column {kept['column']!r} is empty")
    return found
