"""What will really be asked, without answers: texts to hold training against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from tunesmith import prompt_rows
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.fill import names_in
from tunesmith.data.finding import prompt_of as text_of
from tunesmith.data.located import files_named
from tunesmith.data.rows import Reading, Rejected, rows
from tunesmith.data.shift import LEAST, MOST
from tunesmith.errors import DataError


def reader(source: str, reading: Reading) -> Callable[[Columns], Sequence[str]]:
    return lambda columns: texts(source, columns, reading)


def texts(source: str, columns: Columns, reading: Reading) -> list[str]:
    """At most MOST prompts: by the columns of training where the file has them, else by what a prompt is called."""
    found: list[str] = []
    for path in files_named(source):
        first = next((item[1] for item in rows(path, reading) if not isinstance(item, Rejected)), {})
        names = [name for text in columns.prompt or () for name in names_in(text)]
        if names and set(names) <= set(first):
            alone = Columns(prompt=columns.prompt)
            there = (item[1] for item in rows(path, reading) if not isinstance(item, Rejected))
            asked = (row for row in there if any(str(row.get(name) or "").strip() for name in names))
            found += ["\n".join(m.content for m in prompt_of(row, alone)) for row in islice(asked, MOST - len(found))]
        else:
            found += [text_of(example) for example in prompt_rows.read(path, MOST).examples]
    if len(found) < LEAST:
        raise DataError(f"--inputs {source}: holds {len(found)} prompts; to tell anything {LEAST} or more are wanted")
    return found[:MOST]
