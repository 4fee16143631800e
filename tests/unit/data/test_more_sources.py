"""Arrow, zstd, ChatML, HTML and PDF: what is read, and that one bad file or turn stops nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from tunesmith.data import packed
from tunesmith.data.ingest import read, task_of
from tunesmith.data.located import find_splits
from tunesmith.data.rows import Rejected, rows
from tunesmith.errors import DataError
from tunesmith.types import Reply

ROWS = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(3000)]


def zstd(path: Path, content: bytes) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(content)
    return path


def arrow_file(path: Path) -> Path:
    feather.write_feather(pa.Table.from_pylist(ROWS), str(path))
    return path


def arrow_stream(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)
    return path


def test_arrow_with_an_index_as_a_stream_and_packed(tmp_path: Path) -> None:
    """Mutant: files with an index alone, which leaves out what `datasets` keeps."""
    for path in (arrow_file(tmp_path / "a.feather"), arrow_stream(tmp_path / "b.arrow")):
        assert list(rows(path)) == [(n, row) for n, row in enumerate(ROWS, 1)]
        whole = zstd(tmp_path / f"{path.name}.zst", path.read_bytes())
        assert [item[1] for item in rows(whole)] == ROWS
    (tmp_path / "c.arrow").write_bytes(b"no arrow at all, but a text that goes on")
    with pytest.raises(DataError, match="is not an Arrow or Feather file that can be read"):
        list(rows(tmp_path / "c.arrow"))


def test_zstd_is_read_as_gzip_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS[:50]) + "no json\n"
    path = zstd(tmp_path / "a.jsonl.zst", text.encode())
    found = read([path])
    assert (len(found.examples), [r.line for r in found.rejected]) == (50, [51])
    comma = zstd(tmp_path / "b.csv.zst", "text;label\ncafé;a\nthé;b\n".encode("cp1252"))
    assert [e.prompt[0].content for e in read([comma]).examples] == ["café", "thé"]
    assert read([comma]).found["encoding"] == "cp1252"
    cut = tmp_path / "c.jsonl.zst"
    cut.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="could not be read"):
        read([cut])
    monkeypatch.setattr(packed, "BOMB_BYTES", 10_000)
    bomb = zstd(tmp_path / "d.jsonl.zst", b" " * 10**7)
    with pytest.raises(DataError, match="compression bomb"):
        list(rows(bomb))


CHATML = """<|im_start|>system
Be kind.<|im_end|>
<|im_start|>user
Where is
my order?<|im_end|>
<|im_start|>assistant
On its way.<|im_end|>

<|im_start|>user
And mine?<|im_end|>
<|im_start|>assistant
Two lines.

With a blank one between.<|im_end|>
<|im_start|>system
Another.<|im_end|>
<|im_start|>user
Hello<|im_end|>
<|im_start|>assistant
Hi<|im_end|>
<|endoftext|>
<|im_start|>user
Never answered, never closed
"""


def test_chatml_becomes_conversations(tmp_path: Path) -> None:
    """A blank line within a turn ends nothing. Mutant: conversations cut at every blank line."""
    path = tmp_path / "chat.txt"
    path.write_text(CHATML)
    found = read([path])
    said = [([(m.role, m.content) for m in e.prompt], e.target.text, e.source) for e in found.examples
            if isinstance(e.target, Reply)]  # fmt: skip
    assert said == [
        ([("system", "Be kind."), ("user", "Where is\nmy order?")], "On its way.", f"{path}:1"),
        ([("user", "And mine?")], "Two lines.\n\nWith a blank one between.", f"{path}:9"),
        ([("system", "Another."), ("user", "Hello")], "Hi", f"{path}:15"),
    ]
    assert [(r.line, r.reason) for r in found.rejected] == [(22, "a turn of it is never closed")]
    assert task_of(found.columns, found)[0] == "chat"


PAGE = """<!doctype html><html><head><title>T</title><style>p{}</style></head><body>
<nav>Home About</nav><main><h1>Keys  and
locks</h1><p>A key <b>opens</b> a lock.</p><ul><li>one<li>two</ul><pre>a  b
 c</pre><script>alert(1)</script><p>caf\u00e9</p></main><footer>Imprint</footer></body></html>"""


def test_a_page_is_what_a_reader_sees(tmp_path: Path) -> None:
    pytest.importorskip("lxml.html")
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "b.htm").write_text("<html><body><script>only()</script></body></html>")
    found = read(find_splits(tmp_path)["train"])
    [example] = found.examples
    assert isinstance(example.target, Reply)
    assert example.target.text == "Keys and locks\n\nA key opens a lock.\n\n- one\n- two\n\na  b\n c\n\ncaf\u00e9"
    assert [(Path(r.file).name, r.reason[:14]) for r in found.rejected] == [("b.htm", "holds no text ")]
    assert task_of(found.columns, found)[0] == "pretrain"


def pdf(*pages: str) -> bytes:
    """By hand: a catalogue, and of each page a text."""
    kids = " ".join(f"{4 + 2 * k} 0 R" for k in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    for k, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else ""
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * k} 0 R >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    body, places = "%PDF-1.4\n", []
    for n, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{n} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode()


def test_pages_of_a_pdf_are_one_document_and_a_bad_one_stops_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    for name, content in (("a", pdf("The first page.", "The second.")), ("b", pdf("")), ("c", b"%PDF-1.4 nothing")):
        (tmp_path / f"{name}.pdf").write_bytes(content)
    found = read(find_splits(tmp_path)["train"])
    assert [e.target.text for e in found.examples if isinstance(e.target, Reply)] == ["The first page.\n\nThe second."]
    reasons = {Path(r.file).name: r.reason for r in found.rejected}
    assert "text recognition" in reasons["b.pdf"]
    assert reasons["c.pdf"].startswith("is not a PDF file that can be read")


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    with pytest.raises(DataError, match=r"PDF files need pypdf.*tunesmith\[documents\]"):
        list(rows(tmp_path / "a.pdf"))


def test_openais_kinds_and_sharegpt_are_read(tmp_path: Path) -> None:
    """Chat with weight and tools, preference, reinforcement: one bad row of each is listed."""
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    call = {"role": "assistant", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]}  # fmt: skip
    user = {"role": "user", "content": "where?"}
    kinds = {
        "chat": ({"messages": [user, {"role": "assistant", "content": "no", "weight": 0}, user,
                               {"role": "assistant", "content": "here", "weight": 1}]}, "chat"),
        "tools": ({"messages": [user, call], "tools": [tool], "parallel_tool_calls": False}, "tools"),
        "preference": ({"input": {"messages": [user]}, "preferred_output": [{"role": "assistant", "content": "here"}],
                        "non_preferred_output": [{"role": "assistant", "content": "no"}]}, "preferences"),
        "reinforcement": ({"messages": [user], "reference_answer": "here"}, "reinforce"),
        "sharegpt": ({"conversations": [{"from": "human", "value": "where?"}, {"from": "gpt", "value": "here"}],
                      "system": "be kind"}, "chat"),
    }  # fmt: skip
    for name, (row, task) in kinds.items():
        path = tmp_path / f"{name}.jsonl"
        bad = dict.fromkeys(row)
        path.write_text("".join(json.dumps(r) + "\n" for r in (row, bad, row)))
        found = read([path])
        assert (len(found.examples), [r.line for r in found.rejected]) == (2, [2]), name
        assert task_of(found.columns, found)[0] == task, name
    first = read([tmp_path / "chat.jsonl"]).examples[0]
    assert [m.weight for m in first.prompt if m.role == "assistant"] == [0.0]
    assert all(not isinstance(item, Rejected) for item in rows(tmp_path / "sharegpt.jsonl"))
