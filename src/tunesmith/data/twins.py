"""Each example twice, for R-Drop: one record with two roots, which no packing takes apart."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.types import Record


def doubled(record: Record) -> Record:
    num = len(record.segments)
    again = [replace(s, parent=s.parent + num if s.parent >= 0 else -1) for s in record.segments]
    return replace(record, segments=(*record.segments, *again))
