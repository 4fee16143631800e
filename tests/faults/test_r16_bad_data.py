"""R16: sixty bad files. Each row that cannot be used is named by file, line and reason; accepted + rejected = rows;
what makes a whole file unreadable is one error; `data.strict` turns any rejection into an error. R17, in part: reading
rows takes the memory of a line, not of a file."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import tracemalloc
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.data import packed
from tunesmith.data import rows as rows_module
from tunesmith.data.ingest import Ingested, read
from tunesmith.errors import DataError
from tunesmith.recipe import parse
from tunesmith.sources import read_rows

GOOD = '{"prompt": "a", "completion": "b"}\n'
KNOWN = '{"prompt": "c", "completion": "d"}\n'


@dataclass(frozen=True)
class Bad:
    """A file and what must come of it: rows accepted, rejected lines with a piece of the reason, or the refusal."""

    name: str
    file: str
    raw: bytes
    accepted: int = 0
    rejected: tuple[tuple[int, str], ...] = ()
    refused: str = ""
    notice: str = ""


def jsonl(name: str, text: str | bytes, accepted: int = 0, *rejected: tuple[int, str], **more: str) -> Bad:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return Bad(name, "rows.jsonl", raw, accepted, rejected, **more)


def csv(name: str, text: str | bytes, accepted: int = 0, *rejected: tuple[int, str], **more: str) -> Bad:
    raw = text if isinstance(text, bytes) else text.encode()
    return Bad(name, "rows.csv", raw, accepted, rejected, **more)


def table(columns: dict[str, list[object]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def in_zip(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, GOOD)
    return out.getvalue()


TWO = GOOD + KNOWN
NO_JSON, NO_UTF8 = "is not JSON", "not UTF-8"
DEEP = '{"prompt": "a", "completion": "b", "more": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
FILES: tuple[Bad, ...] = (
    jsonl("empty", "", refused="there are no rows"),
    jsonl("blank lines only", "\n \n\t\n", refused="there are no rows"),
    jsonl("a mark only", codecs.BOM_UTF8, refused="there are no rows"),
    jsonl("blank lines between", f"\n{GOOD}\n\n{KNOWN}\n", 2),
    jsonl("a byte-order mark", codecs.BOM_UTF8 + TWO.encode(), 2),
    jsonl("UTF-16 with its mark", TWO.encode("utf-16"), 2),
    jsonl("UTF-32 with its mark", TWO.encode("utf-32"), 2),
    jsonl("a byte that is no UTF-8", TWO.encode() + b'{"prompt": "\xff", "completion": "b"}\n', 2, (3, NO_UTF8)),
    jsonl("two encodings", TWO.encode() + '{"prompt": "é", "completion": "b"}\n'.encode("latin-1"), 2, (3, NO_UTF8)),
    jsonl("carriage returns", TWO.replace("\n", "\r\n"), 2),
    jsonl("mixed line ends", GOOD.replace("\n", "\r\n") + KNOWN, 2),
    jsonl("no final newline", TWO.rstrip(), 2),
    jsonl("a last line cut off", TWO + '{"prompt": "a", "compl', 2, (3, NO_JSON)),
    jsonl("a lone surrogate, escaped", GOOD + '{"prompt": "\\ud800", "completion": "b"}\n', 1, (2, "surrogate")),
    jsonl("a lone surrogate, in bytes", GOOD + '{"prompt": "\ud800", "completion": "b"}\n', 1, (2, NO_UTF8)),
    jsonl("a zero byte in a line", GOOD.encode() + b'{"prompt": "a\0", "completion": "b"}\n', 1, (2, NO_JSON)),
    jsonl("a zero byte, escaped", GOOD + '{"prompt": "a\\u0000b", "completion": "c"}\n', 2),
    jsonl("NaN", GOOD + '{"prompt": NaN, "completion": "b"}\n', 1, (2, "NaN")),
    jsonl("Infinity", GOOD + '{"prompt": "a", "completion": -Infinity}\n', 1, (2, "Infinity")),
    jsonl("a key twice", GOOD + '{"prompt": "a", "prompt": "b", "completion": "c"}\n', 1, (2, "'prompt' twice")),
    jsonl("a key twice, deeper", GOOD + '{"prompt": "a", "completion": "b", "m": {"x": 1, "x": 2}}\n', 1, (2, "twice")),
    jsonl("100,000 deep", GOOD + DEEP, 1, (2, "nested too deeply")),
    jsonl("a list", GOOD + "[1, 2]\n", 1, (2, "JSON list")),
    jsonl("a text", GOOD + '"x"\n', 1, (2, "JSON str")),
    jsonl("a number", GOOD + "3\n", 1, (2, "JSON int")),
    jsonl("null", GOOD + "null\n", 1, (2, "JSON NoneType")),
    jsonl("single quotes", GOOD + "{'prompt': 'a'}\n", 1, (2, NO_JSON)),
    jsonl("a comma too many", GOOD + '{"prompt": "a", "completion": "b",}\n', 1, (2, NO_JSON)),
    jsonl("two objects in a line", GOOD + GOOD.strip() + GOOD, 1, (2, NO_JSON)),
    jsonl("an integer of 5000 digits", GOOD + '{"prompt": "a", "completion": ' + "9" * 5000 + "}\n", 1, (2, "digits")),
    jsonl("a line of 100 MB", GOOD.encode() + b'{"prompt": "' + b"x" * 10**8 + b'"}\n' + KNOWN.encode(), 2, (2, "MiB")),
    jsonl("a line of 100 MB without an end", GOOD.encode() + b"x" * 10**8, 1, (2, "MiB")),
    jsonl("no reply", GOOD + '{"prompt": "a"}\n', 1, (2, "completion")),
    jsonl("an empty reply", GOOD + '{"prompt": "a", "completion": " "}\n', 1, (2, "empty")),
    jsonl("an empty prompt", GOOD + '{"prompt": "", "completion": "b"}\n', 1, (2, "empty")),
    jsonl("a reply that is null", GOOD + '{"prompt": "a", "completion": null}\n', 1, (2, "completion")),
    jsonl("a row twice", GOOD + GOOD, 2),
    jsonl("an id twice", '{"id": 1, "prompt": "a", "completion": "b"}\n' * 2, 2),
    jsonl("a type that changes late", GOOD * 4999 + '{"prompt": {"x": 1}, "completion": "b"}\n', 5000),
    jsonl("columns that change late", GOOD * 4999 + '{"question": "a", "answer": "b"}\n', 4999, (5000, "prompt")),
    jsonl("a web page", "<html>\n<body>404</body>\n</html>\n", refused="none of its 3 rows could be used"),
    jsonl("a weight that is a text", '{"prompt": "a", "completion": "b", "weight": 1}\n'
        '{"prompt": "a", "completion": "b", "weight": "x"}\n', 1, (2, "weight")),
    jsonl("a conversation without a reply", '{"messages": [{"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b"}]}\n{"messages": [{"role": "user", "content": "a"}]}\n', 1, (2, "")),
    jsonl("a conversation that is a text", '{"messages": [{"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b"}]}\n{"messages": "hello"}\n', 1, (2, "")),
    jsonl("a turn without a role", '{"messages": [{"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b"}]}\n{"messages": [{"content": "a"}]}\n', 1, (2, "")),
    csv("a header only", "prompt,completion\n", refused="there are no rows"),
    csv("too few fields", "prompt,completion\na,b\nc\n", 1, (3, "has 1 fields")),
    csv("too many fields", "prompt,completion\na,b\nc,d,e\n", 1, (3, "has 3 fields")),
    csv("a quote left open", 'prompt,completion\na,b\n"c,d\n', 1, (3, "quote")),
    csv("a header twice", "prompt,prompt\na,b\n", refused="more than once"),
    csv("a zero byte", b"prompt,completion\na\0,b\n", refused="zero bytes"),
    csv("Windows-1252", "prompt,completion\ncafé à côté,réponse\n".encode("cp1252"), 1, notice="Windows-1252"),
    csv("a picture", b"\x89PNG\r\n\x1a\n" + bytes(200), refused="zero bytes"),
    Bad("a zip by another name", "rows.csv", in_zip("rows.jsonl"), refused="zip archive"),
    Bad("a zip", "rows.zip", in_zip("../../evil.jsonl"), refused="kind of file is not known"),
    Bad("a tar", "rows.tar.gz", gzip.compress(b"../../evil\0" * 50), refused="kind of file is not known"),
    Bad("a packed file cut off", "rows.jsonl.gz", gzip.compress(TWO.encode())[:-9], refused="damaged or half-written"),
    Bad("a packed file that is none", "rows.jsonl.gz", TWO.encode(), refused="damaged or half-written"),
    Bad("a bomb", "rows.jsonl.gz", gzip.compress(bytes(2**20)) * 200, refused="bomb"),
    Bad("a bomb in one line", "rows.csv.gz", gzip.compress(b"a" * 2**20) * 200, refused="bomb"),
    Bad("a table cut off", "rows.parquet", table({"prompt": ["a"], "completion": ["b"]})[:-20], refused="Parquet"),
    Bad("a table with a hole", "rows.parquet", table({"prompt": ["a", None], "completion": ["b", "c"]}), 1, ((2, ""),)),
    Bad("a workbook that is none", "rows.xlsx", TWO.encode(), refused="no Excel workbook"),
    Bad("an array of other things", "rows.json", f"[{GOOD}, 3]".encode(), 1, ((2, "JSON int"),)),
    Bad("an array cut off", "rows.json", b"[" + GOOD.encode() + b",", refused=NO_JSON),
)  # fmt: skip


def outcome(bad: Bad, folder: Path) -> Ingested | str:
    path = folder / bad.file
    path.write_bytes(bad.raw)
    try:
        return read([path])
    except DataError as error:
        return str(error)


@pytest.fixture
def small_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BOMB_BYTES", 2**26)  # the same rule, of which 200 MiB are enough


@pytest.mark.parametrize("bad", FILES, ids=[bad.name for bad in FILES])
def test_each_row_is_accepted_or_named(bad: Bad, tmp_path: Path, small_bombs: None) -> None:
    found = outcome(bad, tmp_path)
    if isinstance(found, str):
        assert bad.refused, found
        assert bad.refused in found
        assert bad.file in found
        return
    assert not bad.refused, "it was read"
    assert len(found.examples) == bad.accepted
    assert [r.line for r in found.rejected] == [line for line, _ in bad.rejected]
    assert found.num_rows == len(found.examples) + len(found.rejected)
    for row, (_, reason) in zip(found.rejected, bad.rejected, strict=True):
        assert row.file == str(tmp_path / bad.file)
        assert row.reason
        assert reason in row.reason
    assert not bad.notice or any(bad.notice in n for n in found.notices)


def test_there_are_sixty(tmp_path: Path) -> None:
    assert len(FILES) + 5 >= 60  # and the five below
    print(f"R16: {len(FILES) + 5} files")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        read([tmp_path / "rows.jsonl"])


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl"):
        read([tmp_path / "a.jsonl"])


def test_a_device_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("zero.jsonl", "folder.jsonl"):
        with pytest.raises(DataError, match="not a regular file"):
            read([tmp_path / name])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD * 3)
    stream = rows_module.rows(path)
    next(stream)
    with path.open("a") as more:
        more.write(KNOWN)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed while it was read"):
        list(stream)


def test_strict_turns_a_rejection_into_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + "{\n" + KNOWN + "[]\n")
    loose = parse({"model": "m", "data": {"train": [str(path)]}})
    assert len(read_rows(loose, [path]).examples) == 2
    strict = parse({"model": "m", "data": {"train": [str(path)], "strict": True}})
    with pytest.raises(DataError, match=r"2 of 4 rows.*rows\.jsonl:2: is not JSON.*rows\.jsonl:4: is a JSON list"):
        read_rows(strict, [path])
    path.write_text(TWO)
    assert len(read_rows(strict, [path]).examples) == 2


def peak_bytes(path: Path, num: int) -> int:
    path.write_text("".join(json.dumps({"prompt": f"{i} " + "x" * 200, "completion": "b"}) + "\n" for i in range(num)))
    tracemalloc.start()
    assert sum(1 for _ in rows_module.rows(path)) == num
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_rows_are_read_in_the_memory_of_a_line(tmp_path: Path) -> None:
    """Ten times the lines, the same memory (10% more at most). What is kept of them, examples and records, is not."""
    few, many = (peak_bytes(tmp_path / "r.jsonl", num) for num in (3_000, 30_000))
    assert many < 1.1 * few + 2**16  # the file has 6 MB
