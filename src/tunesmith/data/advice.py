"""What a person should know of a file before a model learns from it, in plain sentences."""

from __future__ import annotations

from typing import Any

from tunesmith.data.columns import Columns
from tunesmith.data.fill import is_template, names_in
from tunesmith.data.ingest import Ingested
from tunesmith.data.profile import RARE, Table, doubles, rare
from tunesmith.data.traits import label_counts
from tunesmith.types import Label


def rows_notes(read: Ingested, *, has_test: bool) -> list[str]:
    """Too few rows, rows that were left out, labels that cannot be learned."""
    num, notes = len(read.examples), []
    if read.rejected:
        notes.append(f"{len(read.rejected)} rows cannot be used; the first: {read.rejected[0]}")
    if num < 50:
        notes.append(f"{num} examples are too few to learn much from, or to prove anything: some hundreds are wanted")
    elif num < 300 and not has_test:
        notes.append(f"{num} examples are few: the verdict may well be 'too few cases'; more rows help twice")
    counts = label_counts(read.examples).most_common()
    if len(counts) == 1:
        notes.append(f"every row has the label {counts[0][0]!r}: there is nothing to choose between")
    few = rare(counts)
    if few:
        shown = ", ".join(map(repr, few[:4])) + (" …" if len(few) > 4 else "")
        notes.append(
            f"{len(few)} of {len(counts)} labels have fewer than {RARE} rows ({shown}): join them, or add rows"
        )
    notes += [
        f"the labels {' and '.join(map(repr, same))} look like one: write them the same" for same in doubles(counts)
    ]
    if len(counts) > 1 and counts[0][1] > 0.9 * num:
        notes.append(
            f"{counts[0][1] / num:.0%} of the rows are {counts[0][0]!r}: always saying so would be right as often"
        )
    contradicted = contradictions(read)
    if contradicted:
        notes.append(f"{contradicted} texts stand there with different labels: the model cannot get them all right")
    return notes


def contradictions(read: Ingested) -> int:
    """Prompts that have more than one label."""
    seen: dict[Any, set[str]] = {}
    for example in read.examples:
        if isinstance(example.target, Label):
            seen.setdefault(tuple(m.content for m in example.prompt), set()).add(example.target.name)
    return sum(len(names) > 1 for names in seen.values())


def column_notes(columns: Columns, table: Table) -> list[str]:
    """A target that is no good one, inputs that say nothing or too much."""
    notes = []
    target = columns.label or columns.reply
    goal = table[target] if target and not is_template(target) else None
    if goal and goal.is_amount:
        notes.append(
            f"{goal.name!r} holds numbers: they are learned as text. Ranges with names would be learned better"
        )
    elif goal and goal.is_id:
        notes.append(
            f"{goal.name!r} is different in nearly every row, like a number of a file: is it the right column?"
        )
    elif columns.label and goal and goal.distinct > goal.filled / 3:
        notes.append(f"{goal.name!r} has {goal.distinct} values in {goal.filled} rows: these are hardly labels")
    optional = [part for part in (columns.prompt or ())[1:] if not is_template(part)]  # left out where they are empty
    for name in [n for part in columns.prompt or () for n in names_in(part)]:
        if table[name].is_id:
            notes.append(
                f"{name!r} is different in nearly every row, like a number of a file: nothing can be learned of it"
            )
        empty = table.num_rows - table[name].filled
        if empty > table.num_rows / 10 and name not in optional:
            notes.append(f"{name!r} is empty in {empty} of {table.num_rows} rows")
    return notes


def understood(columns: Columns, read: Ingested, task: str) -> str:
    """One sentence on what is learned from what."""
    rows = f"{len(read.examples)} {'replies marked good or bad' if columns.mark else 'examples'}"
    if columns.messages or columns.conversation:
        return f"{rows}: conversations, of which the assistant's turns are learned"
    if columns.text:
        return f"{rows}: plain text in {columns.text!r}, learned as it is"
    if columns.ranked:
        return f"{rows}: lists of replies in {columns.ranked!r}, some better than others"
    if columns.chosen:
        return f"{rows}: pairs of a preferred ({columns.chosen!r}) and a rejected reply ({columns.rejected!r})"
    given = " and ".join(repr(n) for part in columns.prompt or () for n in names_in(part))
    if columns.label:
        num = len(label_counts(read.examples))
        return f"{rows}: from {given} to {f'one of {num}' if num else 'lists of'} labels in {columns.label!r}"
    return f"{rows}: from {given} to the text in {columns.reply!r} ({task})"
