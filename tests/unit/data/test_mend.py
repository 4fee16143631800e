"""What is mended is safe, and every row that is not as it was has its line in the ledger."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.faults.many_rows import unrendered

from tunesmith.contaminated import of_public_tests
from tunesmith.data import examined, leaks
from tunesmith.data.audit import audit
from tunesmith.data.blemishes import blemishes
from tunesmith.data.doubtful import Doubts
from tunesmith.data.ingest import read
from tunesmith.data.lines import Reading
from tunesmith.data.mend import mend
from tunesmith.data.remedies import ROWS as DROPPED
from tunesmith.data.split import split
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
    assert dict(done.counts) == {"read": 69, "written": 63, "masked": 1, "cut": 0, "dropped": 4, "left out": 2}
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


def of_kind(kind: str, folder: Path) -> Path:
    """Forty rows and one that cannot be used, as a file of this kind."""
    path = folder / f"rows.{kind}"
    pairs = [{"prompt": f"ask {i}", "completion": f"answer {i}"} for i in range(40)]
    table, turn = pa.table({k: [*(row[k] for row in pairs), None] for k in pairs[0]}), "<|im_start|>{}\n{}<|im_end|>\n"
    chats = [turn.format("user", row["prompt"]) + turn.format("assistant", row["completion"]) for row in pairs]
    texts = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in pairs) + "{}\n",
        "json": json.dumps([*pairs, 3]),
        "csv": "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in pairs) + "a,b,c\n",
        "tsv": "prompt\tcompletion\n" + "".join(f"{row['prompt']}\t{row['completion']}\n" for row in pairs) + "a\n",
        "txt": "\n".join([*chats, "<|im_start|>user\nnever closed"]),
        "chat.jsonl": "".join(json.dumps({"text": chat}) + "\n" for chat in chats) + "{}\n",
    }  # fmt: skip
    bare = kind.removesuffix(".gz").removesuffix(".zst")
    if bare == "parquet":
        pq.write_table(table, path)
    elif bare == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        raw, compression = texts[bare].encode(), {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        with pa.output_stream(str(path), compression=compression) as out:
            out.write(raw)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "txt", "chat.jsonl", "parquet", "arrow", "jsonl.gz",
                                  "csv.gz", "csv.zst", "jsonl.zst"])  # fmt: skip
def test_the_copy_of_any_kind_of_file_reads_as_the_same_examples(tmp_path: Path, kind: str) -> None:
    """Mutant: a name keeps the `.zst` of a table that is written unpacked, and nobody can read it."""
    found = read([of_kind(kind, tmp_path)])
    done = mend(found, Reading(), tmp_path / "out")
    assert dict(done.counts) == {"read": 41, "written": 40, "masked": 0, "cut": 0, "dropped": 0, "left out": 1}
    assert len(done.ledger.read_text().splitlines()) == 1
    assert [e.id for e in read(done.files).examples] == [e.id for e in found.examples]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(InputError, match="is there already"):
        mend(read([file]), Reading(), tmp_path)


def test_where_a_row_is_a_message_its_conversation_is_dropped(tmp_path: Path) -> None:
    """Mutants: its first message alone, and the rest is another conversation; the same message elsewhere."""
    file, said = tmp_path / "talk.csv", ("hi", "no", "hi", "yes", "hi", "no")
    lines = [
        f"{k % 3 if k < 6 else 3},{('customer', 'agent')[k // 3 % 2]},{said[k % 3 * 2 + k // 3 % 2]} it is\n"
        for k in range(6)
    ]
    file.write_text("ticket_id,sender,text\n" + "".join(lines) + "3,nobody,never\n,agent,alone\n")
    found = read([file])
    assert [e.source.rpartition(":")[2] for e in found.examples] == ["2", "3", "4"]
    done = mend(found, Reading(), tmp_path / "out")
    ledger = [json.loads(line) for line in done.ledger.read_text().splitlines()]
    assert [(r["row"].rpartition(":")[2], r["did"]) for r in ledger] == [
        ("4", "dropped"), ("7", "dropped"), ("8", "left out"), ("9", "left out")
    ]  # fmt: skip
    assert ledger[1]["why"] == f"identical to {file}:2 (its conversation, from {file}:4 on)"
    assert dict(done.counts) == {"read": 8, "written": 4, "masked": 0, "cut": 0, "dropped": 2, "left out": 2}
    assert [e.prompt for e in read(done.files).examples] == [e.prompt for e in found.examples[:2]]


def test_a_sentence_that_many_replies_share_is_cut_out_and_the_rows_stay(tmp_path: Path) -> None:
    """Mutants: the rows are dropped; the sentence goes where it is all that is said, or stands in the middle."""
    end, names = "Is there anything else you need?", "abcdefghijklmnopqrstuvwxyz"
    rows = [{"messages": [{"role": "user", "content": f"where is {c}{d}"},
                          {"role": "assistant", "content": f"The {c}{d} is there. {end}"}]}
            for c in names for d in "ab"]  # fmt: skip
    rows[3]["messages"][1]["content"] = f"{end} The door is shut now."
    rows[4]["messages"][1]["content"] = end
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, doubts = read([file]), Doubts(None, None, drop=("same_end",))
    doubts.listed(blemishes(found.examples))
    done = mend(found, Reading(), tmp_path / "out", doubts.dropped, doubts.cut)
    kept = [json.loads(line)["messages"][1]["content"] for line in done.files[0].read_text().splitlines()]
    assert kept[:5] == [
        "The aa is there.",
        "The ab is there.",
        "The ba is there.",
        rows[3]["messages"][1]["content"],
        end,
    ]  # type: ignore[index]
    assert dict(done.counts) == {"read": 52, "written": 52, "masked": 0, "cut": 50, "dropped": 0, "left out": 0}
    assert len(done.ledger.read_text().splitlines()) == 50


def test_rows_behind_what_is_about_two_splits_can_be_dropped(tmp_path: Path) -> None:
    """Twins, moved rows, rare labels, items of tests: mutant: the rows of the test instead of those of training."""
    texts = [(f"film {'ab'[i % 2] * (i + 1)}", "yes") for i in range(20)] + [
        ("room 12", "no"),
        ("room 13", "no"),
        ("Gate", "no"),
    ]
    texts += [("Tell me: what do bees make?", "yes")]
    file, held_out = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts))
    held_out.write_text(
        "".join(json.dumps({"text": text, "label": "no"}) + "\n" for text in ("room 14", "gate", "a b c"))
    )
    found, test = read([file]), read([held_out])
    parts = split(found.examples, 0.0, 0.0, "salt", given={"test": test.examples})
    within = of_public_tests([], parts.train)
    counts = audit(found, parts, unrendered(parts.train), [test], within)
    made = {one.kind: one for one in examined.counted(counts, [*found.examples, *test.examples], found.examples, parts)}
    assert within.finding is not None
    made |= {within.finding.kind: within.finding}
    lines = {
        kind: [s.removeprefix(f"{file}:") for s in made[kind].every()]
        for kind in ("twins", "moved", "rare_labels", "contaminated")
    }  # type: ignore[misc]
    assert lines == {"twins": ["21", "22"], "moved": ["23"], "rare_labels": ["21", "22", "23"], "contaminated": ["24"]}
    assert made["rare_labels"].rows[0].source == f"{file}:21"
    assert counts["warnings"][-1].startswith("1 training rows contain items of public tests")
    lost = [(found.examples[3].id, "the reply is lost"), (found.examples[4].id, "900 tokens, more than 64")]
    made = {one.kind: one for one in examined.counted(counts, (), found.examples, parts, lost)}
    assert (made["too_long"].count, made["too_long"].every) == (1, None)
    assert [s.removeprefix(f"{file}:") for s in made["unusable"].every()] == ["4"]  # type: ignore[misc]


def test_every_row_of_a_finding_that_is_named_is_dropped_and_not_only_those_shown(tmp_path: Path) -> None:
    """30 near copies, of which 20 are shown; mutant: those that are shown."""
    draw = random.Random(4)
    words = [f"{a}{b}{c}{d}" for a in "bdfg" for b in "aeiou" for c in "klmn" for d in "aeiou"]
    said = [" ".join(draw.choices(words, k=12)) for _ in range(90)]
    rows = [{"prompt": text, "completion": f"answer {text[:9]}"} for text in said]
    rows += [{**row, "prompt": f"{row['prompt']} then"} for row in rows[:30]]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read([file])
    doubts = Doubts(None, None, drop=("near_duplicates",))
    made = list(leaks.findings(found.examples, split(found.examples, 0.1, 0.1, "salt")))
    doubts.listed(made)
    done = mend(found, Reading(), tmp_path / "out", doubts.dropped)
    assert (len(made[0].rows), done.counts["dropped"], done.counts["written"]) == (20, 30, 90)
    assert [json.loads(line)["row"].rpartition(":")[2] for line in done.ledger.read_text().splitlines()] == [
        str(line) for line in range(91, 121)
    ]
    assert "every" not in made[0].as_dict()
    held_out = replace(found.examples[100], source="test:1")
    parts = split(found.examples[:90], 0.0, 0.0, "salt", given={"test": [held_out]})
    [leak] = leaks.findings(parts.train, parts)
    assert (leak.kind, list(leak.every())) == ("test_edited", [f"{file}:11"])  # type: ignore[misc]


def test_all_rows_of_what_one_row_shows_can_be_dropped(tmp_path: Path) -> None:
    """25 rows of each kind, of which 20 are shown; each kind names the command that drops just these."""
    plain = [{"prompt": f"what is thing {i}", "completion": f"It is {'x' * (i % 40)} thing. Done."} for i in range(700)]
    planted = {
        "email": lambda i: {"prompt": f"who is it {i}?", "completion": f"Write to p{i}@mail.org today."},
        "phone": lambda i: {"prompt": f"who calls {i}?", "completion": f"Call (212) 555-01{10 + i} today."},
        "control_tokens": lambda i: {"prompt": f"say <|im_start|> {i}", "completion": f"I say {i} now."},
        "hidden_characters": lambda i: {"prompt": f"hidden\u202e {i}", "completion": f"It is {i} here."},
        "open_code": lambda i: {"prompt": f"write code {i}", "completion": f"So it goes:\n```python\nx = {i}\n"},
        "other_writing": lambda i: {"prompt": f"что это такое {i}", "completion": f"это вещь номер {i}."},
        "empty_replies": lambda i: {"prompt": f"say nothing {i}", "completion": "..."},
        "refused_replies": lambda i: {"prompt": f"do {i}", "completion": f"As an AI language model, I cannot do {i}."},
    }  # fmt: skip
    rows, where = list(plain), {}
    for kind, make in planted.items():
        where[kind] = range(len(rows) + 1, len(rows) + 26)
        rows += [make(i) for i in range(25)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read([file]).examples
    made = {one.kind: one for one in blemishes(found, drop=tuple(DROPPED))}
    assert {*planted} <= {*made}
    for kind, lines in where.items():
        assert made[kind].every is not None, kind
        assert [int(source.rpartition(":")[2]) for source in made[kind].every()] == list(lines), kind  # type: ignore[misc]
        assert len(made[kind].rows) == 20
        assert made[kind].command.endswith(f"--fix mended --drop {kind}")
    assert all(one.every is None for one in blemishes(found))


def test_rows_of_contradicting_labels_and_of_one_template_can_be_dropped(tmp_path: Path) -> None:
    """Mutants: only the second label's rows; the first of a template too."""
    texts = [("good film", "yes"), ("bad film", "no"), ("good film", "no"), ("room 12", "yes"), ("room 13", "yes")]
    texts += [(f"film {'abcdef'[i % 6] * (i + 1)}", "yes") for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts))
    found = read([file])
    parts = split(found.examples, 0.0, 0.2, "salt")
    counted = examined.counted(audit(found, parts, unrendered(parts.train)), found.examples, found.examples, parts)
    made = {one.kind: one for one in counted}
    assert list(made["contradictions"].every()) == [f"{file}:1", f"{file}:3"]  # type: ignore[misc]
    assert (made["contradictions"].rows[0].source, made["contradictions"].rows[0].text) == (f"{file}:1", "good film")
    assert list(made["masked_duplicates"].every()) == [f"{file}:5"]  # type: ignore[misc]
    assert made["one_label"].every is None
