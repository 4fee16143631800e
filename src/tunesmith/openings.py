"""How often held-out cases were looked at: a test set that many runs were chosen by has been trained on by hand.

Dwork et al. 2015 (https://arxiv.org/abs/1506.02629): each look at a test set that steers the next choice spends some
of what it can prove. Cases are told by the digest of their content, so that another folder, order or number of cases
does not hide a look.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, InputError
from tunesmith.files import cache_dir

ID_LETTERS = 12  # of a case's digest: two of a million cases are mistaken for each other once in 500 times


@dataclass(frozen=True, slots=True)
class Opening:
    """A run whose tuned model answered held-out cases."""

    run: str  # the name of its folder: where that stands is nobody's business who is handed a report
    when: str
    num_shared: int  # of the cases asked about


def check_writable() -> None:
    """Before anything takes time: a run writes into the cache hours later. InputError where that cannot be."""
    folder = record_path().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell of a read-only mount
            return
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be written ({error.strerror}), and looks at test cases are counted there: "
            "export TUNESMITH_CACHE=FOLDER, one that you may write"
        ) from error


def record_path() -> Path:
    """Of all openings on this machine: digests of cases, and folders; no text. It stays in the cache."""
    return cache_dir() / "openings.jsonl"


def open_cases(ids: Sequence[str], run: Path, but: Sequence[Path] = ()) -> list[Opening]:
    """Earlier openings of any of these cases by other runs than this one and those of `but`, oldest first; this one is
    added to the record."""
    mine = {i[:ID_LETTERS] for i in ids}
    name = str(run.resolve())
    own = {name, *(str(other.resolve()) for other in but)}
    earlier = [
        Opening(Path(row["run"]).name, row["when"], shared)
        for row in rows()
        if row["run"] not in own and (shared := len(mine.intersection(row["cases"])))
    ]
    line = {"run": name, "when": datetime.now(UTC).isoformat(timespec="seconds"), "cases": sorted(mine)}
    record_path().parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(record_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:  # one write to the end of the file: runs side by side do not mix their lines
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)
    return earlier


def rows() -> list[dict[str, Any]]:
    path = record_path()
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                f"{path}:{number} is not a line that tunesmith wrote ({error}), so that looks at a test set cannot be "
                "counted; take the line out, or move the file away to count from none"
            ) from error
    return found


def note(earlier: Sequence[Opening], num_cases: int) -> str:
    """What a reader of the verdict must know of it; "" where these cases were never opened."""
    if not earlier:
        return ""
    most = max(o.num_shared for o in earlier)
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    which = "all" if most == num_cases else f"up to {most}"
    return (
        f"{which} of the {num_cases} test cases were opened {times} before on this machine, last by {earlier[-1].run} "
        f"on {earlier[-1].when[:10]}: what was chosen by their scores since then looks better on them than it is. A "
        "verdict that has to convince others needs cases that nobody has looked at."
    )
