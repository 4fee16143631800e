"""What `tunesmith audit` looks for takes memory that hardly grows with the rows: some bytes of numbers a row, no row.

Counted are the allocations of Python and numpy (tracemalloc) between two sizes; what is sampled is sampled at both.
"""

from __future__ import annotations

import gc
import inspect
import json
import random
import re
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.faults.many_rows import unrendered

from tunesmith import contaminated
from tunesmith.data import audit as audit_of_rows
from tunesmith.data import (
    contained,
    examined,
    ingest,
    label_errors,
    languages,
    leaks,
    near,
    progress,
    shift,
    stored,
    toxic,
    traits,
    triggers,
)
from tunesmith.data.audit import audit
from tunesmith.data.blemishes import blemishes
from tunesmith.data.columns import Columns
from tunesmith.data.doubtful import Doubts
from tunesmith.data.progress import Step, untold
from tunesmith.data.split import split

SMALL, LARGE = 600, 1_200
MOST_BYTES = 100.0  # a row may add at the peak: digests, numbers and marks of some ten columns
VOCABULARY = 400


def written(path: Path, num: int, *, labels: bool) -> Path:
    """Near copies, identical rows, rows that cannot be read, addresses and a stock sentence among them."""
    draw, last = random.Random(0), [""]
    with path.open("w") as file:
        for i in range(num):
            text = " ".join(f"w{draw.randrange(VOCABULARY)}x" for _ in range(7))
            text = {0: last[-1], 1: f"{last[-1]} more", 2: "", 3: f"{text} ann{i}@mail.org"}.get(i % 20, text)
            last.append(text) if i % 7 == 0 else None
            said = {"label": "ab"[i % 2], "region": f"r{i % 9}"}
            reply = {
                "completion": f"{text[:20]}. {'Have a very nice day now.' if i % 8 == 0 else 'It is done so now.'}"
            }
            file.write(json.dumps({"text" if labels else "prompt": text, **(said if labels else reply)}) + "\n")
    return path


@cache
def judges() -> tuple[toxic.Reader | None, languages.Identify | None]:
    return toxic.reader(), languages.identifier()


def finders(path: Path, step: Step = untold) -> dict[str, Callable[[], Any]]:
    """All that `examined` calls; rows, split and records are there before."""
    read = ingest.read([path], Columns(slices=("region",) if "labels" in path.name else ()))
    rows, parts = read.examples, split(read.examples, 0.1, 0.1, "salt")
    rendered = unrendered(parts.train)
    judges()  # opened before anything is counted
    found = audit(read, parts, rendered)
    return {
        "audit": lambda: audit(read, parts, rendered),
        "counted": lambda: examined.counted(found, rows, rows, parts),
        "blemishes": lambda: blemishes(rows, step),
        "doubts.findings": lambda: Doubts(*judges()).findings(rows, step),
        "leaks.findings": lambda: list(leaks.findings(rows, parts, step)),
        "label_errors.findings": lambda: list(label_errors.findings(parts.train, step)),
        "shift.findings": lambda: list(shift.findings(shift.compared(parts, ()), parts)),
        "shift.linked": lambda: list(shift.linked(rows, step)),
        "triggers.findings": lambda: list(triggers.findings(rows, step)),
        "public tests": lambda: contaminated.of_public_tests((), parts.train, step),
        "a mutant that keeps where each row stands": lambda: len([example.source for example in rows]),
    }


def peaks(path: Path) -> dict[str, int]:
    """The most bytes that each holds at a time."""
    made: dict[str, int] = {}
    gc.freeze()  # what hundreds of other tests left behind is looked through by no collection below
    for name, finder in finders(path).items():
        gc.collect()
        tracemalloc.start()
        finder()
        made[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return made


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worked on at a time, and what is sampled, so that both sizes are beyond them."""
    for module, name, size in (
        *((module, "PIECE", 200) for module in (near, traits, contained, audit_of_rows)),
        (audit_of_rows, "MAX_LISTED", 9), (near, "PART", 1024), (near, "TABLE", 2**10),
        (shift, "MOST", 60), (label_errors, "MOST_ROWS", 200), (label_errors, "WORDS", 200),
        (toxic, "PIECE", 50), (label_errors, "LETTERS", 200), (triggers, "MOST", 200), (stored, "KEPT_BYTES", 2**14),
        *((module, "EVERY", 200) for module in (near, progress)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(contaminated, "probes", lambda: [contained.Items("one", ["which of these is the longest?"])])


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "texts"])
def test_findings_keep_some_numbers_a_row_and_no_row(tmp_path: Path, *, labels: bool) -> None:
    name = "labels" if labels else "texts"
    small, large = (peaks(written(tmp_path / f"{name}{n}.jsonl", n, labels=labels)) for n in (SMALL, LARGE))
    grew = {name: (large[name] - small[name]) / (LARGE - SMALL) for name in large}
    print({name: f"{large[name] / 2**10:.0f} KiB, {grew[name]:.0f} a row" for name in large})
    (mutant,) = [name for name in grew if name.startswith("a mutant")]
    assert grew.pop(mutant) > 1.5 * MOST_BYTES
    assert {name: num for name, num in grew.items() if num > MOST_BYTES} == {}


def test_no_finder_is_forgotten_here(tmp_path: Path) -> None:
    called = set(re.findall(r"\*([\w.]+)\(", inspect.getsource(examined.Look.__call__)))
    there = finders(written(tmp_path / "texts.jsonl", 60, labels=False))
    assert called
    assert {name.removeprefix("self.") for name in called} <= set(there)


def test_all_long_work_is_told(tmp_path: Path) -> None:
    """Each pass from its first thousands to its end, so that a bar has its time left."""
    told: list[tuple[int, int, str]] = []
    path = written(tmp_path / "labels.jsonl", SMALL, labels=True)
    for name in ("blemishes", "leaks.findings", "shift.linked", "public tests"):
        finders(path, lambda *one: told.append(one))[name]()
    for begins in (
        "rows examined", "rows read, to find near copies", "texts hashed", "rounds of comparing",
        "prompts read, to find leaks into test", "rows counted by label", "training rows searched",
    ):  # fmt: skip
        own = [(done, total) for done, total, text in told if text.startswith(begins)]
        assert len(own) > 1, (begins, {text for _, _, text in told})
        assert own[-1][0] == own[-1][1]
