"""A file in, the same file with answers out. Every row comes back, in its place, with all its columns.

Answers are kept beside OUT, batch by batch, in OUT.partial; OUT itself is written at the end and is whole or absent. A
batch is always the same rows of the file and is answered by itself, so a resumed file is the uninterrupted one, bit for
bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from tunesmith.best_of import best_of
from tunesmith.calibrate import NAME as CALIBRATION_FILE
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.fill import names_in
from tunesmith.data.rows import About, Rejected, Row, digest, rows
from tunesmith.data.write import check_name, write_rows
from tunesmith.errors import DataError, InputError, Interrupted
from tunesmith.files import sha256_text
from tunesmith.folder import Teller
from tunesmith.generate.structured import Form
from tunesmith.measured import schema_of
from tunesmith.opened import TUNED, Opened, Served, open_run
from tunesmith.predict import Prediction, Predictor, Unusable, calibration_of, is_labelled
from tunesmith.stopping import Stop
from tunesmith.types import Message
from tunesmith.unasked import IN_CHAT, refuse_command

WORDS = ("answer", "unsure", "cut", "problem")  # columns of text among those that are added


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user may say about a prediction."""

    model: str = TUNED
    prompt: tuple[str, ...] = ()  # columns or templates to read instead of the run's own
    each_label: bool = False  # one more column per label
    resume: bool = False
    best_of: int = 1  # answers sampled, of which `reward` picks one
    reward: Path | None = None
    schema: Path | None = None  # of JSON, that answers fit
    pattern: str = ""  # that answers fit as a whole


@dataclass(frozen=True, slots=True)
class Done:
    """What was written, in numbers."""

    out: str
    num_rows: int
    num_problems: int
    num_unsure: int | None
    num_cut: int | None
    columns: dict[str, str]  # what was added -> the name of its column


@dataclass(slots=True)
class Survey:
    """What a first pass over the file finds."""

    types: dict[str, set[type]] = field(default_factory=dict)  # column, in order -> types of its values
    num_rows: int = 0
    delimiter: str = ","
    notices: list[str] = field(default_factory=list)  # what a person must know of how the file was read


def predict_file(folder: Path, source: Path, out: Path, asked: Asked, tell: Teller) -> Done:
    """Answers every row of `source` with the run in `folder`. Raises Interrupted at Ctrl-C: what was answered stays."""
    check_name(out)
    served = Served.read(folder)
    refuse_command(served.task, f"{folder} learned from", IN_CHAT, writes=True)
    journal = Journal(out.with_name(out.name + ".partial"))
    refuse_existing(out, journal, resume=asked.resume)
    found = survey(source)
    columns = replace(served.columns, prompt=asked.prompt, messages=None) if asked.prompt else served.columns
    check_columns(source, found, columns)
    for line in (*found.notices, *understood(source, found, columns)):
        tell.say(line)
    calibration = calibration_of(folder) if asked.model == TUNED else None
    added = added_columns(served, asked, found, calibrated=calibration is not None)
    for name, column in added.items():
        if column != name:
            tell.say(f"the file has a column {name!r} of its own, so what is added is called {column!r}")
    best = best_of(asked.best_of, asked.reward)
    opened = open_run(folder)
    predictor = Predictor(opened, calibration, asked.model, best, form_of(asked, opened))
    if predictor.labelled and predictor.calibration is None:
        why = "the run had too few dev cases, or the base was asked"
        why = "several labels may fit a text" if opened.renderer.several else why
        tell.say(f"probabilities are not calibrated ({why}): see `confidence`")
    out.parent.mkdir(parents=True, exist_ok=True)
    journal.open(fingerprint(folder, source, asked, predictor))
    answer_all(source, columns, predictor, journal, found.num_rows, tell)
    if digest(source) != journal.header["source"]:
        raise DataError(f"{source}: the file changed while it was answered. Remove {journal.path} and start again.")
    totals = dict.fromkeys(("problem", "unsure", "cut"), 0)
    types: dict[str, set[type]] = {**found.types}
    types |= {column: {str} if name in WORDS else {float} for name, column in added.items()}
    write_rows(out, joined(source, journal, added, totals), types, found.delimiter)
    journal.path.unlink()
    return Done(
        str(out), found.num_rows, totals["problem"], totals["unsure"] if "unsure" in added else None,
        totals["cut"] if "cut" in added else None, added,
    )  # fmt: skip


def form_of(asked: Asked, opened: Opened) -> Form | None:
    """What answers have to be; None for any text."""
    if asked.schema is None and not asked.pattern:
        return None
    if (asked.schema is not None and asked.pattern) or asked.best_of > 1 or is_labelled(opened.served):
        raise InputError(
            "--schema and --pattern are two ways to say what an answer has to be, and go neither together nor with "
            "--best-of or with labels: leave one out"
        )
    schema = None if asked.schema is None else schema_of(str(asked.schema), "--schema")[0]
    return opened.form(schema=schema, pattern=asked.pattern)


def refuse_existing(out: Path, journal: Journal, *, resume: bool) -> None:
    """What is there already is never overwritten."""
    if out.exists():
        state = "is complete, nothing is left to resume" if resume else "is there already"
        raise InputError(f"{out} {state}: name another file, or move this one away")
    if journal.path.exists() and not resume:
        raise InputError(
            f"{journal.path} holds the answers of a prediction that was stopped: add --resume to go on with it, or "
            "remove it"
        )


def survey(source: Path) -> Survey:
    """One pass over the file: its columns, the types of their values, the number of rows."""
    about = About()
    found = Survey(notices=about.notices)
    for item in rows(source, about=about):
        found.num_rows += 1
        if isinstance(item, Rejected):
            continue
        for name, value in item[1].items():
            kinds = found.types.setdefault(name, set())
            if value is not None:
                kinds.add(type(value))
    if not found.num_rows:
        raise DataError(f"{source}: there are no rows. Wanted: at least one to answer.")
    delimiter = about.found.get("delimiter", ",")
    found.delimiter = "\t" if delimiter == "tab" else delimiter
    return found


def prompt_names(columns: Columns) -> tuple[str, ...]:
    """The columns that a prompt is made of."""
    for name in (columns.messages, columns.content if columns.conversation else None):
        if name is not None:
            return (name,)
    if columns.prompt:
        return tuple(dict.fromkeys(n for text in columns.prompt for n in names_in(text)))
    return (columns.chosen,) if columns.chosen else ()


def check_columns(source: Path, found: Survey, columns: Columns) -> None:
    missing = [name for name in prompt_names(columns) if name not in found.types]
    if missing and found.types:
        raise DataError(
            f"{source}: there is no column {', '.join(map(repr, missing))}, which the run reads its prompt from; the "
            f"file has: {', '.join(found.types)}. Rename one, or say which is the prompt: --prompt COLUMN"
        )


def understood(source: Path, found: Survey, columns: Columns) -> list[str]:
    lines = [f"{source}: {found.num_rows} rows; the prompt is {', '.join(prompt_names(columns))}"]
    if columns.system is not None and columns.system not in found.types:
        lines.append(f"there is no column {columns.system!r}, so the run's own instruction stands before every prompt")
    return lines


def added_columns(served: Served, asked: Asked, found: Survey, *, calibrated: bool) -> dict[str, str]:
    """What is added, in order -> its column: its own name, unless the file has that one already."""
    if is_labelled(served) and asked.reward:
        raise InputError("--best-of picks among sampled texts, and this run answers with labels: leave it out")
    if is_labelled(served):
        names = ["answer", *(["probability", "unsure"] if calibrated else ["confidence"])]
        names += [f"probability: {label}" for label in served.labels] if asked.each_label else []
    elif asked.each_label:
        raise InputError("the run was not tuned on labels, so there is no probability of each label")
    else:
        names = ["answer", "confidence", "cut", *(["reward"] if asked.reward else [])]
    taken = set(found.types)
    columns: dict[str, str] = {}
    for name in (*names, "problem"):
        options = chain((name, f"predicted {name}"), (f"predicted {name} {n}" for n in range(2, 10**6)))
        columns[name] = next(option for option in options if option not in taken)
        taken.add(columns[name])
    return columns


def fingerprint(folder: Path, source: Path, asked: Asked, predictor: Predictor) -> dict[str, Any]:
    """All that decides the answers. A resume must have the same; threads are set to what they were."""
    weights = folder / ("adapter" if predictor.opened.recipe.adapt.is_adapter else "model") / "manifest.json"
    kept = (weights, folder / "serving.json", folder / CALIBRATION_FILE)
    base = predictor.opened.session.base
    return {
        "source": digest(source),
        "run": sha256_text("".join(p.read_text(encoding="utf-8") for p in kept if p.is_file())),
        "base": base.digest,
        "model": asked.model,
        "prompt": list(asked.prompt),
        "each label": asked.each_label,
        "reward": [] if predictor.best is None else predictor.best.facts,
        "form": "" if predictor.form is None else predictor.form.grammar,
        "rows of a batch": predictor.batch_rows,
        "device": f"{base.model.device} {base.model.dtype} torch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }


class Journal:
    """Answers that are there already: behind a header, one line of JSON a batch. A torn last line is taken out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.num_batches = 0

    def open(self, header: dict[str, Any]) -> None:
        """Begin, or go on behind the last whole line. InputError where it was begun with something else."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole:
            before = json.loads(whole[0])
            torch.set_num_threads(before["threads"])
            header = {**header, "threads": before["threads"]}
            different = [name for name in header if before.get(name) != header[name]]
            if different:
                raise InputError(
                    f"{self.path} was begun with another {' and another '.join(different)} than now: remove it to "
                    "start again, or name another OUT"
                )
        self.header, self.num_batches = header, max(0, len(whole) - 1)
        if not whole or len(whole) < len(lines):
            self.path.write_bytes(b"".join(whole))
        if not whole:
            self._add(header)

    def add(self, predictions: list[Prediction]) -> None:
        keep = [n for n in Prediction.__dataclass_fields__ if n != "probabilities" or self.header["each label"]]
        self._add([{n: value for n in keep if (value := getattr(p, n)) is not None} for p in predictions])
        self.num_batches += 1

    def _add(self, value: Any) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(value) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def predictions(self) -> Iterator[Prediction]:
        with self.path.open(encoding="utf-8") as lines:
            next(lines)
            for line in lines:
                yield from (Prediction(**kept) for kept in json.loads(line))


def batches(source: Path, num: int) -> Iterator[list[tuple[int, Row] | Rejected]]:
    stream = rows(source)
    while batch := list(islice(stream, num)):
        yield batch


def asked_of(item: tuple[int, Row] | Rejected, columns: Columns) -> tuple[Message, ...] | Unusable:
    """The prompt of a row of the file, or why there is none."""
    if isinstance(item, Rejected):
        return Unusable(f"line {item.line}: {item.reason}")
    try:
        return prompt_of(item[1], columns)
    except ValueError as error:
        return Unusable(str(error))


def answer_all(
    source: Path, columns: Columns, predictor: Predictor, journal: Journal, num_rows: int, tell: Teller
) -> None:
    """Batch by batch into the journal, from where it ends. The first Ctrl-C waits for the batch, a second does not."""
    size, before = predictor.batch_rows, journal.num_batches
    if before:
        tell.say(f"going on behind row {min(before * size, num_rows)}")

    def so_far() -> int:
        return min(journal.num_batches * size, num_rows)

    def stopped() -> str:
        return f"stopped; {so_far()} of {num_rows} rows are answered and kept in {journal.path}"

    try:
        tell.step(so_far(), num_rows, "rows answered")
        with Stop(tell.say) as stop, stop.gently("this batch of rows"):
            for batch in islice(batches(source, size), before, None):
                journal.add(predictor([asked_of(item, columns) for item in batch]))
                tell.step(so_far(), num_rows, "rows answered")
                if so_far() < num_rows:
                    stop.check(stopped())
    except KeyboardInterrupt:
        raise Interrupted(f"{stopped()}: the same command with --resume goes on") from None


def joined(source: Path, journal: Journal, added: dict[str, str], totals: dict[str, int]) -> Iterator[Row]:
    """The rows of the file with what was added; counts what is worth saying."""
    for item, prediction in zip(rows(source), journal.predictions(), strict=True):
        row = {} if isinstance(item, Rejected) else item[1]
        for name in totals:
            totals[name] += bool(getattr(prediction, name))
        yield {**row, **{column: shown(name, prediction) for name, column in added.items()}}


def shown(name: str, prediction: Prediction) -> Any:
    """A value as it stands in the file: truth is yes or no, and nothing is said of a row with a problem."""
    if name.startswith("probability: "):
        return (prediction.probabilities or {}).get(name.removeprefix("probability: "))
    value = getattr(prediction, name)
    return value if not isinstance(value, bool) else "yes" if value else "no"
