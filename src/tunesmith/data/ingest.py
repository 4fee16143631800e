"""Files to examples. Bad rows are counted and listed, never silently lost: accepted + rejected == rows read."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from tunesmith.data.columns import Columns, content_of, group_of, weight_of
from tunesmith.data.infer import infer
from tunesmith.data.rows import FORMATS, Rejected, Row, digest, format_of, rows
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message, Reply, Target

__all__ = ["Columns", "Ingested", "Rejected", "example_id", "find_splits", "infer_task", "read"]

LOOK_AHEAD = 200  # rows whose keys together are the columns that are there
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Ingested:
    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...]
    num_rows: int  # accepted + rejected
    columns: Columns  # as they were read
    ignored: tuple[str, ...]  # columns of the file that mean nothing here
    files: dict[str, str]  # path -> SHA-256


def read(paths: Sequence[Path], columns: Columns | None = None) -> Ingested:
    """Examples of all files, in order. The columns are inferred once, from the first rows of the first file that has
    rows.
    """
    said = columns or Columns()
    examples: list[Example] = []
    rejected: list[Rejected] = []
    files: dict[str, str] = {}
    seen: Counter[str] = Counter()
    resolved: Columns | None = None
    ignored: tuple[str, ...] = ()
    for path in map(Path, paths):
        stream = rows(path)
        ahead = list(islice(stream, LOOK_AHEAD))
        for item in chain(ahead, stream):
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            if resolved is None:
                resolved, ignored = _understood(path, [*ahead, item], said)
            try:
                examples.append(_example(item[1], resolved, seen, f"{path}:{item[0]}"))
            except ValueError as error:
                rejected.append(Rejected(str(path), item[0], str(error)))
        files[str(path)] = digest(path)
    if resolved is None or not examples:
        _refuse_empty(paths, rejected)
    assert resolved is not None
    return Ingested(tuple(examples), tuple(rejected), len(examples) + len(rejected), resolved, ignored, files)


def _understood(
    path: Path, ahead: Sequence[tuple[int, Row] | Rejected], said: Columns
) -> tuple[Columns, tuple[str, ...]]:
    """The columns, and the names of those that mean nothing here."""
    sample = [item[1] for item in ahead if not isinstance(item, Rejected)]
    names = tuple(dict.fromkeys(name for row in sample for name in row))
    try:
        columns = infer(names, said, sample)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return columns, tuple(name for name in names if name not in columns.used())


def _refuse_empty(paths: Sequence[Path], rejected: list[Rejected]) -> None:
    shown = ", ".join(map(str, paths)) or "no file"
    if not rejected:
        raise DataError(f"{shown}: there are no rows. Wanted: at least one example per line.")
    reasons = "; ".join(map(str, rejected[:3]))
    raise DataError(f"{shown}: none of its {len(rejected)} rows could be used. {reasons}")


def _example(row: Row, columns: Columns, seen: Counter[str], source: str) -> Example:
    prompt, target = content_of(row, columns)
    content = example_id(prompt, target)
    seen[content] += 1
    return Example(
        f"{content}-{seen[content]}", prompt, target, group_of(row, columns), weight_of(row, columns), source
    )


def example_id(prompt: tuple[Message, ...], target: Target) -> str:
    """Hash of the content, 20 hex digits; the occurrence number is the caller's."""
    content = [[_plain(m) for m in prompt], type(target).__name__, asdict(target)]
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _plain(message: Message) -> list[object]:
    return [message.role, message.content, message.weight, dict(message.extra)]


def find_splits(path: Path) -> dict[str, list[Path]]:
    """{"train" | "dev" | "test": files}. A file is training data; in a folder the names tell (train…, dev | valid |
    val…, test…).
    """
    path = Path(path)
    if path.is_file():
        return {"train": [path]}
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder. Check the name.")
    files = sorted(f for f in path.iterdir() if f.is_file() and format_of(f) is not None and not f.name.startswith("."))
    if not files:
        raise DataError(f"{path}: holds no data file. Wanted: {', '.join(FORMATS)}, each also with .gz.")
    found: dict[str, list[Path]] = {}
    unknown = []
    for file in files:
        word = re.match(r"[a-z]*", file.name.lower())
        split = SPLIT_NAMES.get(word.group() if word else "")
        if split is None:
            unknown.append(file)
        else:
            found.setdefault(split, []).append(file)
    if unknown and found:
        names = ", ".join(f.name for f in unknown)
        raise DataError(
            f"{path}: beside files named train, dev or test stand {names}. Name the files to use, or move these away."
        )
    if unknown:
        return {"train": unknown}
    if "train" not in found:
        raise DataError(f"{path}: holds {', '.join(f.name for f in files)} and no training file. Name it train….")
    return found


def infer_task(columns: Columns, ingested: Ingested) -> str:
    """ "classify" | "summarise" | "translate" | "extract" | "chat" | "generate": only what the file says outright, else
    "generate".
    """
    targets = [example.target for example in ingested.examples]
    if targets and all(isinstance(target, Label) for target in targets):
        return "classify"
    replies = [target.text for target in targets if isinstance(target, Reply)]
    if replies and len(replies) == len(targets) and all(_is_object(reply) for reply in replies):
        return "extract"
    if columns.messages is not None:
        return "chat"
    reply = (columns.reply or "").lower()
    if reply in ("summary", "highlights"):
        return "summarise"
    others = {name.lower() for name in ingested.ignored}
    if reply in ("target", "tgt") and others & {
        "src_lang",
        "tgt_lang",
        "source_lang",
        "target_lang",
        "source_language",
        "target_language",
    }:
        return "translate"
    return "generate"


def _is_object(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
