"""Files to examples. Bad rows are counted and listed, never silently lost: accepted + rejected == rows read.

A row is a line of the file (a record, in JSON arrays and Parquet). In a file with one row per message it is a whole
conversation, or a line that belongs to none; `Ingested.num_messages` then counts the lines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tunesmith.data import marks, transcripts
from tunesmith.data.columns import Columns, content_of, group_of, slices_of, tests_of, weight_of, when_of
from tunesmith.data.examples import Examples
from tunesmith.data.infer import infer
from tunesmith.data.mixture import Template, applied, phrased
from tunesmith.data.progress import EVERY, Step, untold
from tunesmith.data.ranking import Tally, as_list
from tunesmith.data.rows import About, Reading, Rejected, Row, digest, rows
from tunesmith.data.stored import Stored, listed
from tunesmith.data.synthetic import is_synthetic
from tunesmith.data.threads import as_chats, gather
from tunesmith.data.traits import KINDS, column
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message, Pair, Ranked, Reply, Target

__all__ = ["Columns", "Ingested", "Rejected", "example_id", "infer_task", "read", "task_of"]

LOOK_AHEAD = 200  # rows whose keys together are the columns that are there
LANGUAGES = {"src_lang", "tgt_lang", "source_lang", "target_lang", "source_language", "target_language"}
DOCUMENTS = {"context", "document", "passage", "paragraph"}
MARKED = re.compile(r"\n####[^\n]*(?<![\w.])\d[^\n]*\s*\Z")  # how GSM8K ends a solution: with a number
BARE = re.compile(r"\s*[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s*")  # a number and nothing else


@dataclass(frozen=True, slots=True)
class Ingested:
    examples: Sequence[Example]  # in a file, as the rejected ones are: read when they are asked for
    rejected: Sequence[Rejected]
    num_rows: int  # accepted + rejected
    columns: Columns  # as they were read
    ignored: tuple[str, ...]  # columns of the file that mean nothing here
    files: dict[str, str]  # path -> SHA-256
    notices: tuple[str, ...] = ()  # what had to be guessed or left out while reading, in sentences
    num_messages: int = 0  # lines of files with one row per message
    found: dict[str, str] = field(default_factory=dict)  # of the first file: format, delimiter, encoding, sheet
    said: tuple[str, ...] = ()  # fields of `columns` that were said rather than inferred
    ends: tuple[int, ...] = ()  # of each source the number of the example behind it; `columns` are those of the first


@dataclass(slots=True)
class _Reader:
    """What is known so far while files are read one after the other."""

    said: Columns
    reading: Reading
    templates: tuple[Template, ...] = ()
    is_mixed: bool = False  # of several sources: labels are texts like other replies
    step: Step = untold
    examples: Examples = field(default_factory=Examples)
    rejected: Stored[Rejected] = field(default_factory=lambda: listed(Rejected))
    columns: Columns | None = None
    ignored: tuple[str, ...] = ()
    notices: list[str] = field(default_factory=list)
    num_messages: int = 0
    found: dict[str, str] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def file(self, path: Path) -> None:
        about = About()
        stream = rows(path, self.reading, about)
        ahead = list(islice(stream, LOOK_AHEAD))
        at, messages = 0, list[tuple[int, Row]]()
        for at, item in enumerate(chain(ahead, stream), 1):
            if at % EVERY == 0:
                self.step(min(99, int(100 * about.read_frac())), 100, f"per cent of {path.name} read")
            if isinstance(item, Rejected):
                self.rejected.append(item)
                continue
            if self.columns is None:
                self.columns, self.ignored, notes = _understood(path, [*ahead, item], self.said)
                self.notices += notes
            if self.columns.conversation is not None:
                messages.append(item)
            else:
                self.row(path, item, self.columns)
        if at >= EVERY:
            self.step(100, 100, f"per cent of {path.name} read")
        if messages and self.columns is not None:
            self.conversations(path, messages, self.columns)
        self.notices += about.notices
        self.found = self.found or about.found

    def begin(self, part: Part) -> None:
        """The next file is of another source, whose columns are its own."""
        self.said = applied(part.columns, part.templates[0]) if part.templates else part.columns
        self.columns, self.templates = None, part.templates

    def conversations(self, path: Path, messages: list[tuple[int, Row]], columns: Columns) -> None:
        gathered = gather(str(path), messages, columns)
        for item in gathered.conversations:
            if isinstance(item, Rejected):
                self.rejected.append(item)
            else:
                self.row(path, item, as_chats(columns))
        self.num_messages += gathered.num_messages
        self.notices += gathered.notices

    def row(self, path: Path, item: tuple[int, Row], columns: Columns) -> None:
        line, row = item
        try:
            own = phrased(columns, self.templates, row) if self.templates else columns
            example = _example(row, own, self.examples, f"{path}:{line}", is_mixed=self.is_mixed)
            self.examples.append(example)
            if columns.ranked is not None and isinstance(example.target, (Pair, Ranked)):
                self.tally.add(example.target, len(as_list(row[columns.ranked])))
        except ValueError as error:
            self.rejected.append(Rejected(str(path), line, str(error)))


@dataclass(frozen=True, slots=True)
class Part:
    """Files of one source, whose columns are inferred from the first of them that has rows."""

    paths: Sequence[Path]
    columns: Columns
    templates: tuple[Template, ...] = ()
    name: str = ""


def read(
    paths: Sequence[Path], columns: Columns | None = None, reading: Reading | None = None, step: Step = untold
) -> Ingested:
    """Examples of all files, in order. The columns are inferred once, from the first rows of the first file that has
    rows.
    """
    return read_parts([Part(paths, columns or Columns())], reading or Reading(), step)


def read_parts(parts: Sequence[Part], reading: Reading, step: Step = untold) -> Ingested:
    """Examples of all sources, in order, each read by its own columns."""
    first, ignored = Columns(), tuple[str, ...]()
    reader = _Reader(Columns(), reading, is_mixed=len(parts) > 1, step=step)
    files: dict[str, str] = {}
    ends: list[int] = []
    for part in parts:
        reader.begin(part)
        for path in map(Path, part.paths):
            reader.file(path)
            files[str(path)] = digest(path)
        if reader.columns is None or len(reader.examples) == (ends[-1] if ends else 0):
            _refuse_empty(part.paths, reader.rejected)
        assert reader.columns is not None
        if not ends:
            first, ignored = reader.columns, reader.ignored
        if (first.text is None) != (reader.columns.text is None):
            raise DataError(
                f"source {part.name}: of all sources either each holds plain texts or none does, and "
                f"{parts[0].name} is otherwise. Make two runs of it, or name the columns of a prompt and a reply"
            )
        ends.append(len(reader.examples))
        if len(parts) > 1:
            reader.notices.append(f"source {part.name}: reads {', '.join(reader.columns.used())}"
                                  + (f"; not used: {', '.join(reader.ignored)}" if reader.ignored else ""))  # fmt: skip
    reader.examples.number()
    reader.examples.step = step
    said = tuple(name for name, value in asdict(parts[0].columns).items() if value)
    return Ingested(
        reader.examples, reader.rejected, len(reader.examples) + len(reader.rejected), first, ignored,
        files, (*reader.notices, *reader.tally.notes()), reader.num_messages, reader.found, said,
        tuple(ends) if len(parts) > 1 else (),
    )  # fmt: skip


def _understood(
    path: Path, ahead: Sequence[tuple[int, Row] | Rejected], said: Columns
) -> tuple[Columns, tuple[str, ...], list[str]]:
    """The columns, the names of those that mean nothing here, and what a person should know of the others."""
    sample = [item[1] for item in ahead if not isinstance(item, Rejected)]
    names = tuple(dict.fromkeys(name for row in sample for name in row))
    try:
        columns = infer(names, said, sample)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    ignored = tuple(name for name in names if name not in columns.used())
    notes = transcripts.notes(columns, said, sample)
    if columns.mark is None and (columns.reply or columns.messages):
        notes += marks.notes(ignored, sample)
    return columns, ignored, notes


def _refuse_empty(paths: Sequence[Path], rejected: Sequence[Rejected]) -> None:
    shown = ", ".join(map(str, paths)) or "no file"
    if not rejected:
        raise DataError(f"{shown}: there are no rows. Wanted: at least one example per line.")
    reasons = "; ".join(map(str, rejected[:3]))
    raise DataError(f"{shown}: none of its {len(rejected)} rows could be used. {reasons}")


def _example(row: Row, columns: Columns, there: Examples, source: str, *, is_mixed: bool) -> Example:
    """With the hash of its content as id, until all are numbered."""
    prompt, target = content_of(row, columns)
    if is_mixed and isinstance(target, Label):
        target = Reply(Message("assistant", target.name))
    content = example_id(prompt, target)
    there.see(content)
    return Example(
        content, prompt, target, group_of(row, columns), weight_of(row, columns), source, tests_of(row, columns),
        slices_of(row, columns), when_of(row, columns), is_synthetic(row),
    )  # fmt: skip


def example_id(prompt: tuple[Message, ...], target: Target) -> str:
    """Hash of the content, 20 hex digits; the occurrence number is the caller's."""
    content = [[_plain(m) for m in prompt], type(target).__name__, asdict(target)]
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _plain(message: Message) -> list[object]:
    return [message.role, message.content, message.weight, dict(message.extra)]


def infer_task(columns: Columns, ingested: Ingested) -> str:
    """One of evals.tasks.KINDS: only what the file says outright, else "generate"."""
    return task_of(columns, ingested)[0]


def task_of(columns: Columns, ingested: Ingested) -> tuple[str, str]:
    """The task, and why, in words for a person."""

    if columns.text is not None:
        return "pretrain", f"'{columns.text}' holds texts without prompts"
    kinds = np.unique(column(ingested.examples, "kind"))
    only = KINDS[kinds[0]] if len(kinds) == 1 else ""
    if only == "Label":
        return "classify", f"the column '{columns.label}' holds labels"
    if only == "Pair":
        return "preferences", "each row holds a preferred and a rejected answer"
    if set(kinds.tolist()) <= {KINDS.index("Pair"), KINDS.index("Ranked")}:
        return "preferences", f"'{columns.ranked}' holds answers of which some are better"
    if only == "Marked":
        return "feedback", f"'{columns.mark}' says of each answer whether it is good"
    if only == "Task":
        beside = " and what a grader needs" if columns.facts else ""
        return "reinforce", f"each row holds a prompt{beside}, and no answer"
    if only == "Reply" and all(isinstance(e.target, Reply) and _is_object(e.target.text) for e in ingested.examples):
        return "extract", "every answer is a JSON object"
    if only == "Reply" and columns.label is not None:
        return "multilabel", f"the column '{columns.label}' holds lists of labels"
    if only == "Reply" and columns.tools is not None and all(_calls(e) for e in ingested.examples):
        return "tools", f"every row ends with a call of the functions in '{columns.tools}'"
    if ingested.ends:
        return "generate", f"{len(ingested.ends)} sources are learned from together"
    if columns.messages is not None or columns.conversation is not None:
        return "chat", "the rows are conversations"
    reply = (columns.reply or "").lower()
    if reply in ("summary", "highlights"):
        return "summarise", f"the answers stand in a column named '{columns.reply}'"
    if reply in ("target", "tgt") and {name.lower() for name in ingested.ignored} & LANGUAGES:
        return "translate", f"beside '{columns.reply}' stand columns that name languages"
    asked = {name.lower() for name in columns.prompt or ()}
    if "question" in asked and asked & DOCUMENTS and reply in ("answer", "answers"):
        return "qa", "beside the questions stand the texts that they are about"
    if only == "Reply" and all(MARKED.search(replied(e)) for e in ingested.examples):
        return "reason", "every answer ends with a line of #### and a number"
    if only == "Reply" and all(BARE.fullmatch(replied(e)) for e in ingested.examples):
        return "number", "every answer is a number and nothing else"
    return "generate", "the answers are text, and nothing in the file says more"


def replied(example: Example) -> str:
    return example.target.text if isinstance(example.target, Reply) else ""


def _calls(example: Example) -> bool:
    """Whether what is learned last calls a function."""
    return isinstance(example.target, Reply) and bool(example.target.message.extra.get("tool_calls"))


def _is_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
