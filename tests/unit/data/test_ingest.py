"""Files as people have them, and as they break (R16): every row is an example or a rejected line with its reason."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.data import lines as lines_module
from tunesmith.data import packed
from tunesmith.data import rows as rows_module
from tunesmith.data.ingest import Ingested, read
from tunesmith.data.located import find_splits
from tunesmith.errors import DataError
from tunesmith.types import Message

GOOD = '{"prompt": "p", "completion": "c"}'
OTHER = '{"prompt": "q", "completion": "d"}'


def ingest(folder: Path, name: str, content: bytes | str) -> Ingested:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read([path])
    assert len(found.examples) + len(found.rejected) == found.num_rows
    return found


# name, content, number of examples, {line: part of the reason}
ROWS: list[tuple[str, bytes | str, int, dict[int, str]]] = [
    ("plain.jsonl", f"{GOOD}\n{OTHER}\n", 2, {}),
    ("no_final_newline.jsonl", f"{GOOD}\n{OTHER}", 2, {}),
    ("crlf.jsonl", f"{GOOD}\r\n{OTHER}\r\n", 2, {}),
    ("blank_lines.jsonl", f"\n{GOOD}\n\n  \n{OTHER}\n\n", 2, {}),
    ("bom.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), 1, {}),
    ("utf16le.jsonl", f"{GOOD}\n{OTHER}\n".encode("utf-16"), 2, {}),
    ("utf16be.jsonl", b"\xfe\xff" + f"{GOOD}\n".encode("utf-16-be"), 1, {}),
    (
        "utf16_broken.jsonl",
        b"\xff\xfe" + f"{GOOD}\n".encode("utf-16-le") + b"\x00\xd8" + "x\n".encode("utf-16-le"),
        1,
        {2: "UTF-16"},
    ),
    (
        "latin1_row.jsonl",
        GOOD.encode() + b'\n{"prompt": "caf\xe9", "completion": "c"}\n' + OTHER.encode(),
        2,
        {2: "byte 0xe9"},
    ),
    ("lone_surrogate.jsonl", f'{GOOD}\n{{"prompt": "\\ud800", "completion": "c"}}', 1, {2: "lone surrogate U+D800"}),
    ("surrogate_pair.jsonl", '{"prompt": "\\ud83d\\ude00", "completion": "c"}', 1, {}),
    ("nul_escaped.jsonl", '{"prompt": "a\\u0000b", "completion": "c"}', 1, {}),
    ("nul_raw.jsonl", f'{GOOD}\n{{"prompt": "a\x00b", "completion": "c"}}', 1, {2: "not JSON"}),
    ("nan.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": NaN}}', 1, {2: "NaN"}),
    ("infinity.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": "c", "w": -Infinity}}', 1, {2: "-Infinity"}),
    ("twice.jsonl", f'{GOOD}\n{{"prompt": "p", "prompt": "q", "completion": "c"}}', 1, {2: "'prompt' twice"}),
    ("deep.jsonl", f"{GOOD}\n" + "[" * 100_000 + "]" * 100_000, 1, {2: "nested too deeply"}),
    ("array_row.jsonl", f"{GOOD}\n[1, 2]", 1, {2: "JSON list"}),
    ("text_row.jsonl", f"{GOOD}\nhello there", 1, {2: "not JSON"}),
    ("half_written.jsonl", f'{GOOD}\n{{"prompt": "p", "compl', 1, {2: "not JSON"}),
    ("huge_number.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": {"9" * 5000}}}', 1, {2: ""}),
    (
        "empty_reply.jsonl",
        f'{GOOD}\n{{"prompt": "p", "completion": "  "}}',
        1,
        {2: "reply (column 'completion') is empty"},
    ),
    (
        "empty_prompt.jsonl",
        f'{GOOD}\n{{"prompt": " ", "completion": "c"}}',
        1,
        {2: "prompt (column 'prompt') is empty"},
    ),
    ("null_reply.jsonl", f'{GOOD}\n{{"prompt": "p", "completion": null}}', 1, {2: "'completion' is empty"}),
    ("missing_reply.jsonl", f'{GOOD}\n{{"prompt": "p"}}', 1, {2: "no column 'completion'"}),
    ("drift.jsonl", f'{GOOD}\n{{"prompt": {{"a": 1}}, "completion": "c"}}\n{{"prompt": 5, "completion": [1]}}', 3, {}),
    (
        "weights.jsonl",
        "\n".join(f'{GOOD[:-1]}, "weight": {w}}}' for w in ("0.5", "0", '"x"', "-1")),
        1,
        {2: "weight is 0", 3: "'x'", 4: "-1"},
    ),
    ("array.json", f"[{GOOD}, {OTHER}, 5]", 2, {3: "JSON int"}),
    ("wrapped.json", f'{{"version": 1, "data": [{GOOD}, {OTHER}]}}', 2, {}),
    ("one.json", GOOD, 1, {}),
    ("lines.json", f"{GOOD}\nbroken\n{OTHER}", 2, {2: "not JSON"}),
    ("plain.csv", "prompt,completion\np,c\nq,d\n", 2, {}),
    ("semicolons.csv", "prompt;completion\np, with comma;c\nq;d\n", 2, {}),
    ("tabs.tsv", "prompt\tcompletion\np, x; y\tc\n", 1, {}),
    ("bars.csv", "prompt|completion\np|c\n", 1, {}),
    ("bom.csv", b"\xef\xbb\xbfprompt,completion\np,c\n", 1, {}),
    ("utf16.csv", "prompt\tcompletion\np\tc\n".encode("utf-16"), 1, {}),
    (
        "quoted.csv",
        'prompt,completion\n"line one\nline ""two""",c\nonly one\nq,d\n',
        2,
        {4: "1 fields, the header has 2"},
    ),
    ("too_many.csv", "prompt,completion\np,c\np,c,x\n", 1, {3: "3 fields"}),
    ("open_quote.csv", 'prompt,completion\np,c\n"never closed,c\nq,d\n', 1, {3: "quote"}),
    ("latin1.csv", b"prompt,completion\np,c\ncaf\xe9,c\n", 2, {}),
    ("mixed.csv", "prompt,completion\np,é\nq,ü\n".encode() + b"caf\xe9,c\n", 2, {4: "byte 0xe9"}),
    ("empty_lines.csv", "\nprompt,completion\n\np,c\n,\n", 1, {}),
    ("crlf.csv", "prompt,completion\r\np,c\r\n", 1, {}),
    ("packed.jsonl.gz", gzip.compress(f"{GOOD}\nbad\n".encode(), mtime=0), 1, {2: "not JSON"}),
    ("packed.csv.gz", gzip.compress(b"prompt,completion\np,c\n", mtime=0), 1, {}),
    ("packed.json.gz", gzip.compress(f"[{GOOD}]".encode(), mtime=0), 1, {}),
]


@pytest.mark.parametrize(("name", "content", "num_examples", "reasons"), ROWS, ids=[r[0] for r in ROWS])
def test_rows(tmp_path: Path, name: str, content: bytes | str, num_examples: int, reasons: dict[int, str]) -> None:
    found = ingest(tmp_path, name, content)
    assert len(found.examples) == num_examples
    assert {r.line: True for r in found.rejected} == dict.fromkeys(reasons, True)
    for rejected in found.rejected:
        assert reasons[rejected.line] in rejected.reason
        assert rejected.file.endswith(name)


FILES: list[tuple[str, bytes | str, str]] = [
    ("empty.jsonl", "", "there are no rows"),
    ("blank.jsonl", "\n \n", "there are no rows"),
    ("header_only.csv", "prompt,completion\n", "there are no rows"),
    ("all_bad.jsonl", "x\ny\n", "none of its 2 rows could be used"),
    ("data.xlsx", b"PK", "no Excel workbook"),
    ("data.xls", b"PK", "Save it as .xlsx or CSV"),
    ("no_suffix", GOOD, "kind of file is not known"),
    ("half.jsonl.gz", gzip.compress(f"{GOOD}\n".encode() * 1000, mtime=0)[:-20], "damaged or half-written"),
    ("no_gzip.jsonl.gz", GOOD, "damaged or half-written"),
    ("broken.json", "[{]", "is not JSON"),
    ("number.json", "5", "JSON int"),
    ("binary.parquet", b"PAR1 nothing", "not a Parquet file"),
    ("twice.csv", "prompt,completion,prompt\na,b,c\n", "more than once"),
    ("unknown.jsonl", '{"foo": 1, "bar": 2}', "'foo', 'bar' are none that are known"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[f[0] for f in FILES])
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        ingest(tmp_path, name, content)
    assert name in str(error.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read([tmp_path / "missing.jsonl"])
    with pytest.raises(DataError, match="not a regular file"):
        read([tmp_path])
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        read([tmp_path / "pipe.jsonl"])
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(DataError, match="no such file that can be read"):
        read([tmp_path / "loop.jsonl"])


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "growing.jsonl"
    path.write_text(f"{GOOD}\n{OTHER}\n")
    stream = rows_module.rows(path)
    next(stream)
    with path.open("a") as file:
        file.write(GOOD)
    with pytest.raises(DataError, match="changed while it was read"):
        list(stream)


def test_a_line_too_long_is_rejected_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_ROW_BYTES", 100)
    found = ingest(tmp_path, "long.jsonl", f'{GOOD}\n{{"prompt": "{"x" * 1000}", "completion": "c"}}\n{OTHER}\n')
    assert [r.line for r in found.rejected] == [2]
    assert len(found.examples) == 2


def test_a_compression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BOMB_BYTES", 10_000)
    with pytest.raises(DataError, match="compression bomb"):
        ingest(tmp_path, "bomb.jsonl.gz", gzip.compress(b"\n" * 500_000))


def test_parquet_of_each_shape(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q", "weight": None}, {"role": "assistant", "content": "a", "weight": 1}]
    table = pa.table({"messages": [messages, messages[:1]], "group": ["g", None]})
    pq.write_table(table, tmp_path / "chat.parquet")
    found = read([tmp_path / "chat.parquet"])
    assert found.examples[0].prompt == (Message("user", "q"),)
    assert found.examples[0].group == "g"
    assert found.rejected[0].reason == "there is no assistant turn to learn"
    packed = tmp_path / "chat.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "chat.parquet").read_bytes()))
    assert read([packed]).examples[0].id == found.examples[0].id


def test_ids_are_content_and_occurrence(tmp_path: Path) -> None:
    first = ingest(tmp_path, "a.jsonl", f"{GOOD}\n{OTHER}\n{GOOD}\n")
    ids = [e.id for e in first.examples]
    assert len(set(ids)) == 3
    assert ids[0][:-2] == ids[2][:-2]
    assert (ids[0][-2:], ids[2][-2:]) == ("-1", "-2")
    second = ingest(tmp_path, "b.csv", "completion,prompt\nd,q\nc,p\n")
    assert [e.id for e in second.examples] == [ids[1], ids[0]], "the content decides, not file, order or columns"
    assert [e.source.rpartition(":")[2] for e in first.examples] == ["1", "2", "3"]


def test_splits_by_file_name(tmp_path: Path) -> None:
    def make(*names: str) -> Path:
        folder = tmp_path / "_".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(GOOD)
        return folder

    def found(folder: Path) -> dict[str, list[str]]:
        return {split: [f.name for f in files] for split, files in find_splits(folder).items()}

    assert found(make("train.jsonl", "valid.csv.gz", "test1.jsonl", "test2.jsonl", "README.md")) == {
        "train": ["train.jsonl"],
        "dev": ["valid.csv.gz"],
        "test": ["test1.jsonl", "test2.jsonl"],
    }
    assert found(make("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-0.parquet"))[
        "dev"
    ] == ["validation-0.parquet"]
    assert found(make("all.jsonl", "more.csv")) == {"train": ["all.jsonl", "more.csv"]}
    single = make("test.jsonl") / "test.jsonl"
    assert find_splits(single) == {"train": [single]}
    refused: list[tuple[Callable[[], Path], str]] = [
        (lambda: make("train.jsonl", "trainees.jsonl"), "stand trainees.jsonl"),
        (lambda: make("dev.jsonl", "test.jsonl"), "no training file"),
        (lambda: make("README.md"), "no data file"),
        (lambda: tmp_path / "nowhere", "no such file or folder"),
    ]
    for folder, message in refused:
        with pytest.raises(DataError, match=message):
            find_splits(folder())
