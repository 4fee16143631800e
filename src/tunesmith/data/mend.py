"""Training files without what can be mended safely, and a ledger with a line for each row that was changed or left out.

Dropped: rows identical to an earlier one; where they are few, replies that say nothing and refusals. Masked: keys,
tokens, passwords, card numbers, bank accounts and social security numbers. Rows that could not be read are left out.
Everything else that the audit finds is left to a person, who may name kinds of rows to drop, or of sentences to cut.
Where a row is one message, its whole conversation is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data import personal, replies
from tunesmith.data.blemishes import MENDED_FRAC, calls
from tunesmith.data.columns import Columns
from tunesmith.data.finding import replies_of
from tunesmith.data.ingest import Ingested
from tunesmith.data.packed import is_packed
from tunesmith.data.rows import Reading, Rejected, Row, format_of, rows
from tunesmith.data.write import write_rows
from tunesmith.errors import InputError
from tunesmith.types import Example, Reply

LEDGER = "ledger.jsonl"
STAY = ("csv", "tsv")  # other kinds become JSON lines, which lose nothing


@dataclass(frozen=True, slots=True)
class Mended:
    files: tuple[Path, ...]
    ledger: Path
    counts: Mapping[
        str, int
    ]  # written, masked and cut (of these), dropped, left out; read = written + dropped + left out


def mend(
    read: Ingested, reading: Reading, folder: Path, doubted: Mapping[str, str] | None = None,
    cut: Mapping[str, Collection[str]] | None = None,
) -> Mended:  # fmt: skip
    """Writes the mended copies of the files that were read, and the ledger, into a folder. `doubted`: file:line -> why
    of more rows to drop. `cut`: file:line -> the ends of its reply that lose their sentence."""
    sources = [Path(path) for path in read.files]
    targets = {path: folder / name_of(path) for path in sources}
    ledger = folder / LEDGER
    taken = [str(path) for path in (*targets.values(), ledger) if path.exists()]
    if taken or len(set(targets.values())) < len(sources):
        said = f"{taken[0]} is there already" if taken else "two files have the same name"
        raise InputError(f"--fix {folder}: {said}. Name another folder, or mend one file after the other")
    folder.mkdir(parents=True, exist_ok=True)
    reasons = {
        **(doubted or {}),
        **dropped(read.examples),
        **{f"{r.file}:{r.line}": f"could not be used: {r.reason}" for r in read.rejected},
    }
    unusable = {f"{r.file}:{r.line}" for r in read.rejected}
    sentences = to_cut(read.examples, cut or {})
    counts = dict.fromkeys(("read", "written", "masked", "cut", "dropped", "left out"), 0)
    with ledger.open("w", encoding="utf-8", errors="backslashreplace") as file:

        def enter(row: str, did: str, why: str) -> None:
            counts[did] += 1
            file.write(json.dumps({"row": row, "did": did, "why": why}, ensure_ascii=False) + "\n")

        def kept(path: Path) -> Iterator[Row]:
            begins: dict[str, str] = {}
            for item in rows(path, reading):
                counts["read"] += 1
                if isinstance(item, Rejected):
                    enter(f"{path}:{item.line}", "left out", item.reason)
                    continue
                name = f"{path}:{item[0]}"
                whole = begins.setdefault(conversation_of(item[1], read.columns) or name, name)
                if whole in reasons:
                    why = reasons[whole] if whole == name else f"{reasons[whole]} (its conversation, from {whole} on)"
                    enter(name, "left out" if whole in unusable else "dropped", why)
                    continue
                row, kinds = masked(item[1])
                if kinds:
                    enter(name, "masked", ", ".join(sorted(kinds)))
                for end, sentence in sentences.get(whole, ()):
                    row, is_cut = without(row, end, sentence)
                    if is_cut:
                        enter(name, "cut", f"a sentence that many replies {end} with: {personal.masked(sentence)}")
                counts["written"] += 1
                yield row

        for path, target in targets.items():
            write_rows(target, kept(path), columns_of(path, reading) if format_of(path) in STAY else {})
    return Mended(tuple(targets.values()), ledger, counts)


def name_of(path: Path) -> str:
    """Of the copy: rows of CSV and TSV stay so, all others become JSON lines."""
    stem = path.with_suffix("").name if is_packed(path) else path.name
    return stem if format_of(path) in STAY else f"{Path(stem).stem}.jsonl"


def columns_of(path: Path, reading: Reading) -> dict[str, set[type]]:
    """Of a table, whose rows have all of them."""
    first = next((item[1] for item in rows(path, reading) if not isinstance(item, Rejected)), {})
    return {name: set() for name in first}


def dropped(examples: Sequence[Example]) -> dict[str, str]:
    """file:line -> why, of the rows that can be left out without loss."""
    empty: dict[str, str] = {}
    refused, num_replies, again = {}, 0, {}
    found: dict[str, str] = {}
    for example in examples:
        content, _, occurrence = example.id.rpartition("-")
        if occurrence != "1":
            again[content] = ""
            found[example.source] = content
        if isinstance(example.target, Reply) and not example.is_text:
            num_replies += 1
            if replies.is_empty(example.target.text) and not calls(example):
                empty[example.source] = "the reply says nothing"
            elif replies.refusal(example.target.text):
                refused[example.source] = "the reply refuses, or says that it is a model"
    for example in examples if again else ():
        content, _, occurrence = example.id.rpartition("-")
        if occurrence == "1" and content in again:
            again[content] = f"identical to {example.source}"
    found = {source: again.get(why, why) for source, why in found.items()}
    for some in (refused, empty):
        found = {**some, **found} if len(some) < MENDED_FRAC * num_replies else found
    return found


def conversation_of(row: Row, columns: Columns) -> str:
    """Which one this message belongs to, where a row is a message; else ""."""
    value = None if columns.conversation is None else row.get(columns.conversation)
    return "" if value is None else str(value).strip()


def to_cut(examples: Sequence[Example], ends: Mapping[str, Collection[str]]) -> dict[str, list[tuple[str, str]]]:
    """file:line -> (end, sentence) of the reply."""
    found: dict[str, list[tuple[str, str]]] = {}
    for example in examples if ends else ():
        if example.source in ends:
            there = replies.edges(replies_of(example)[0])
            found[example.source] = [(end, said) for end, said in there if end in ends[example.source]]
    return found


def without(value: Any, end: str, sentence: str) -> tuple[Any, bool]:
    """The value without the sentence, wherever a text in it begins or ends with it and says more; whether one did."""
    if isinstance(value, str):
        text = value.strip()
        if end == "begin" and text.startswith(sentence):
            rest = text.removeprefix(sentence).lstrip()
        elif end == "end" and text.endswith(sentence):
            rest = text.removesuffix(sentence).rstrip()
        else:
            return value, False
        return (rest, True) if rest else (value, False)
    if isinstance(value, Mapping):
        pairs = {key: without(item, end, sentence) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, any(is_cut for _, is_cut in pairs.values())
    if isinstance(value, (list, tuple)):
        items = [without(item, end, sentence) for item in value]
        return [item for item, _ in items], any(is_cut for _, is_cut in items)
    return value, False


def masked(value: Any) -> tuple[Any, set[str]]:
    """The value with placeholders for secrets, however deep they stand, and their kinds."""
    if isinstance(value, str):
        kinds = {kind for kind, _, _ in personal.spans(value, personal.SAFE)}
        return (personal.masked(value, personal.SAFE) if kinds else value), kinds
    if isinstance(value, Mapping):
        pairs = {key: masked(item) for key, item in value.items()}
        return {key: item for key, (item, _) in pairs.items()}, set().union(*(kinds for _, kinds in pairs.values()))
    if isinstance(value, (list, tuple)):
        items = [masked(item) for item in value]
        return [item for item, _ in items], set().union(*(kinds for _, kinds in items))
    return value, set()
