"""Training rows that contain items of the guard probes, of benchmarks that the user names, or near copies of held-out
rows: what is learned by heart is no longer measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunesmith.data.contained import Contained, Items, Search, Within, counts
from tunesmith.data.finding import SHOWN, Row, excerpt, finding, prompt_of
from tunesmith.data.knobs import Data
from tunesmith.data.leaks import leaks
from tunesmith.data.located import files_named
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.rows import Reading, Rejected, rows
from tunesmith.data.split import Split
from tunesmith.data.stored import Stored, listed
from tunesmith.errors import DataError
from tunesmith.evals.probes import PROBES
from tunesmith.types import Example

# Where a benchmark's file holds what is asked; the first that is there
ASKED = (
    "question",
    "prompt",
    "problem",
    "instruction",
    "query",
    "sentence",
    "text",
    "input",
    "ctx",
    "goal",
    "document",
)


def told(found: dict[str, Any], data: Data, parts: Split, step: Step = untold, *, has_files: bool) -> dict[str, Any]:
    """audit.json with the near copies that training rows hold of rows of dev and test files, which the split leaves as
    they are. The audit has a finding of these."""
    if not has_files or not data.near_together or "findings" in found:
        return found
    for name in ("dev", "test"):
        held_out: Sequence[Example] = getattr(parts, name)
        near = leaks(parts, name, step) if len(held_out) else ()
        found["near"][name] = len(near)
        if near:
            first = f"{held_out[near[0].at].source} like {parts.train[near[0].like].source}"
            found["warnings"] = [*found["warnings"], (
                f"{len(near)} of {len(held_out)} {name} rows are nearly like a training row (the first: {first}): "
                "their answers are known from training; `tunesmith audit` lists them")]  # fmt: skip
    return found


def of_public_tests(benchmarks: Sequence[str], train: Sequence[Example], step: Step = untold) -> Within:
    """Items of the guard probes and of these benchmarks: where training rows contain some, a warning and a finding."""
    tests = [*probes(), *map(benchmark, benchmarks)]
    search = Search(tests)
    hits: Stored[Contained] = listed(Contained)
    num, last = 0, -1
    for one in search.in_rows(counted(train, len(train), "training rows searched for public tests", step)):
        num, last = num + (one.row != last), one.row  # those of a row stand together
        hits.append(one)
    by_test = counts(hits)
    facts = {
        "count": num,
        "of": len(train),
        "tests": {
            t.name: {"items": len(t.texts), "too_short": search.num_short[t.name], "found": by_test[t.name]}
            for t in tests
        },
        "examples": [asdict(row) for row in _rows(hits, train)],
    }
    if not num:
        return Within(facts, None, None)
    named = ", ".join(f"{n} of {name}" for name, n in by_test.most_common(3))
    warning = (
        f"{num} training rows contain items of public tests ({named}; the first: {train[hits[0].row].source}): what "
        "they measure is learned by heart"
    )
    made = finding("contaminated", num, len(train), _rows(hits, train), (
        f"training rows contain items of public tests ({named})",
        "what such a test measures is learned by heart, and its score means nothing",
        "drop them, or do not quote these tests"))  # fmt: skip
    return Within(facts, warning, replace(made, every=lambda: (train[one.row].source for one in hits)))


def probes() -> Iterator[Items]:
    """The items of the guard probes."""
    for probe in PROBES:
        yield Items(f"the guard probe '{probe.name}'", [str(i.get("q", i.get("text"))) for i in probe.items()])


def benchmark(name: str) -> Items:
    """What is asked in each row of these files; rows that cannot be read are left out."""
    texts: Stored[str] = listed(str)
    for path in files_named(name):
        column = None
        for item in rows(path, Reading()):
            if isinstance(item, Rejected):
                continue
            if column is None:
                column = asked_in(path, item[1])
            value = item[1].get(column)
            if isinstance(value, str):
                texts.append(value)
    if not texts:
        raise DataError(f"data.benchmarks: {name} holds no items that can be read. Wanted: rows with one of {ASKED}")
    return Items(name, texts)


def asked_in(path: Path, row: dict[str, Any]) -> str:
    known = [name for name in row if name.lower() in ASKED and isinstance(row[name], str)]
    if known:
        return min(known, key=lambda name: ASKED.index(name.lower()))
    texts = [name for name in row if isinstance(row[name], str)]
    if not texts:
        raise DataError(f"data.benchmarks: {path} has no column of texts (it has {', '.join(row)})")
    return max(texts, key=lambda name: len(row[name]))


def _rows(hits: Sequence[Contained], train: Sequence[Example]) -> list[Row]:
    return [
        Row(train[one.row].source, excerpt(prompt_of(train[one.row])), f"{one.test}: {excerpt(one.item)}")
        for one in hits[:SHOWN]
    ]
