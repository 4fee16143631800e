"""What became of examples that were rendered: of each, as it goes from one process to another, and of all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tunesmith.data.records import Records, of_bytes
from tunesmith.data.stored import Stored, listed
from tunesmith.errors import DataError
from tunesmith.types import Record

Shown = tuple[tuple[str, bool], ...]  # a record in pieces: text, learned
Row = tuple[bytes, tuple[int, int, int, int]]  # of data.records: to_bytes, four_of


@dataclass(frozen=True, slots=True)
class Rendered:
    records: Sequence[Record]  # in a file, as the two below: read when they are asked for
    dropped: Sequence[tuple[str, str]]  # example id, reason
    cut: Sequence[str]  # ids of examples whose prompt was shortened
    shown: Shown = ()  # the first record


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str  # the example's id
    dropped: str  # why; "" where it was not
    is_cut: bool
    is_pair: bool
    rows: list[Row]  # its records; several of a plain text


def outcomes_to_bytes(outcomes: Iterable[Outcome]) -> bytes:
    """The length of a head, the head, the records."""
    found = list(outcomes)
    head = [[o.name, o.dropped, o.is_cut, o.is_pair, [[len(row), *four] for row, four in o.rows]] for o in found]
    raw = json.dumps(head).encode()
    return b"".join((len(raw).to_bytes(8, "big"), raw, *(row for o in found for row, _ in o.rows)))


def outcomes_of_bytes(data: bytes) -> Iterator[Outcome]:
    at = 8 + int.from_bytes(data[:8], "big")
    for name, dropped, is_cut, is_pair, sizes in json.loads(data[8:at]):
        rows: list[Row] = []
        for length, *four in sizes:
            rows.append((data[at : at + length], tuple(four)))
            at += length
        yield Outcome(name, dropped, is_cut, is_pair, rows)


def gathered(
    chunks: Iterable[Iterable[Outcome]], shown: Callable[[Record], Shown], progress: Callable[[int], None] | None
) -> Rendered:
    """Of all examples, in order. DataError where none has a record."""
    records, done = Records(), 0
    first: Record | None = None
    dropped: Stored[tuple[str, str]] = listed(lambda name, reason: (name, reason))
    cut: Stored[str] = listed(str)
    for chunk in chunks:
        if progress is not None:
            progress(done)
        for outcome in chunk:
            done += 1
            if not outcome.rows:
                dropped.append((outcome.name, outcome.dropped))
            if outcome.is_cut:
                cut.append(outcome.name)
            if first is None and outcome.rows:  # of a pair the chosen reply is shown
                first = of_bytes(0, outcome.rows[0][0])
                first = replace(first, segments=first.segments[:2]) if outcome.is_pair else first
            for row, sizes in outcome.rows:
                records.append_sized(row, sizes)
    if done and not records:
        raise DataError(
            f"none of the {done} examples could be rendered. The first, {dropped[0][0]}: {dropped[0][1]}. "
            "Where they are too long, raise data.max_tokens or say data.too_long: cut"
        )
    return Rendered(records, dropped, cut, shown(first) if first else ())
