"""What is mended is safe, and every row that is not as it was has its line in the ledger."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tunesmith.data.ingest import read
from tunesmith.data.lines import Reading
from tunesmith.data.mend import mend
from tunesmith.errors import InputError

TOKEN = "ghp_" + "a1" * 12
ROWS = [
    {"prompt": "one", "completion": "first", "extra": {"kept": [1, None]}},
    {"prompt": "two", "completion": "..."},
    {"prompt": "one", "completion": "first", "extra": 2},
    {"prompt": "three", "completion": f"the key is {TOKEN}", "notes": [f"seen {TOKEN}", 3]},
    {"prompt": "four"},
    {"prompt": "five", "completion": "mail a.b@c.org"},
    {"prompt": "six", "completion": "As an AI language model, I cannot say."},
    {"prompt": "two", "completion": "..."},
    *({"prompt": f"more {i}", "completion": f"answer {i}"} for i in range(60)),
]


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    return path


def test_every_change_stands_in_the_ledger(tmp_path: Path) -> None:
    """Read = written + dropped + left out, and each row is in one of them."""
    file = written(tmp_path / "rows.jsonl", ROWS)
    done = mend(read([file]), Reading(), tmp_path / "out")
    [copy] = done.files
    kept = [json.loads(line) for line in copy.read_text().splitlines()]
    ledger = [json.loads(line) for line in done.ledger.read_text().splitlines()]
    assert dict(done.counts) == {"read": 69, "written": 63, "masked": 1, "dropped": 4, "left out": 2}
    assert [(r["row"].rpartition(":")[2], r["did"]) for r in ledger] == [
        ("2", "dropped"), ("3", "dropped"), ("4", "masked"), ("5", "left out"), ("7", "dropped"), ("8", "dropped"),
        ("69", "left out"),
    ]  # fmt: skip
    assert ledger[1]["why"] == f"identical to {file}:1"
    masked = {"prompt": "three", "completion": "the key is [API_TOKEN]", "notes": ["seen [API_TOKEN]", 3]}
    assert kept == [ROWS[0], masked, ROWS[5], *ROWS[8:]]  # a public address stays, and so does what nothing reads
    assert TOKEN not in done.ledger.read_text()
    again = mend(read([copy]), Reading(), tmp_path / "again")
    assert again.counts["written"] == again.counts["read"] == 63
    assert again.ledger.read_text() == ""


def test_refusals_that_are_many_stay(tmp_path: Path) -> None:
    """Then refusing may be what is taught; mutant: all refusals are dropped."""
    rows = [{"prompt": f"ask {i}", "completion": f"I cannot help with that, {i}."} for i in range(5)] + ROWS[8:]
    done = mend(read([written(tmp_path / "rows.jsonl", rows)]), Reading(), tmp_path / "out")
    assert done.counts["dropped"] == 0


def test_marks_that_are_answers_stay(tmp_path: Path) -> None:
    """Mutant: replies of marks alone are dropped, and a task of brackets loses all its rows."""
    rows = [{"prompt": f"close {i}: ( [", "completion": "] )"} for i in range(40)]
    rows += [{"prompt": f"plus or minus, {i}?", "completion": "-"} for i in range(10)]
    done = mend(read([written(tmp_path / "rows.jsonl", rows)]), Reading(), tmp_path / "out")
    assert done.counts["dropped"] == 0


def test_tables_stay_tables(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('id;text;label\n1;"a; b";x\n2;c;y\n3;"a; b";x\n')
    done = mend(read([file]), Reading(), tmp_path / "out")
    with done.files[0].open(encoding="utf-8-sig", newline="") as stream:
        assert list(csv.reader(stream)) == [["id", "text", "label"], ["1", "a; b", "x"], ["2", "c", "y"]]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(InputError, match="is there already"):
        mend(read([file]), Reading(), tmp_path)


def test_messages_are_not_mended_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "talk.csv"
    file.write_text("ticket_id,sender,text\n" + "".join(f"{i},customer,hi {i}\n{i},agent,yes {i}\n" for i in range(3)))
    with pytest.raises(InputError, match="one message"):
        mend(read([file]), Reading(), tmp_path / "out")
