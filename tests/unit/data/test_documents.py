"""Plain text: files, documents and rows without prompts; what is no plain text, and the way out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tunesmith.data import lines as lines_module
from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.ingest import Ingested, read, task_of
from tunesmith.data.lines import Reading
from tunesmith.data.located import find_splits
from tunesmith.data.split import key, keys_of, split
from tunesmith.errors import DataError
from tunesmith.types import Reply

STANZAS = "First line\nand its second.\n\n\nA poem\r\nof two.\r\n\r\n  \n\nThe end.\n"


def ingest(path: Path, content: str | bytes, separator: str | None = None) -> Ingested:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read([path], reading=Reading(separator=separator))
    assert len(found.examples) + len(found.rejected) == found.num_rows
    return found


def texts(found: Ingested) -> list[tuple[str, int]]:
    """(text, line) of each document."""
    kept = []
    for e in found.examples:
        assert e.is_text
        assert isinstance(e.target, Reply)
        kept.append((e.target.text, int(e.source.rpartition(":")[2])))
    return kept


def test_a_file_is_a_document_or_several(tmp_path: Path) -> None:
    whole = ingest(tmp_path / "a.txt", STANZAS)
    assert texts(whole) == [(STANZAS.replace("\r\n", "\n").strip("\n"), 1)]
    assert whole.columns == Columns(text="text")
    assert task_of(whole.columns, whole)[0] == "pretrain"
    assert whole.found == {"format": "text", "encoding": "utf-8"}
    apart = ingest(tmp_path / "a.md", STANZAS, "\n\n")
    assert texts(apart) == [("First line\nand its second.", 1), ("A poem\nof two.", 5), ("The end.", 10)]
    marked = ingest(tmp_path / "b.txt.gz", gzip.compress(b"one<|eot|>two\nlines<|eot|>\n<|eot|>three"), "<|eot|>")
    assert texts(marked) == [("one", 1), ("two\nlines", 1), ("three", 3)]
    western = ingest(tmp_path / "c.txt", "Ein schöner Tag für alle Bürger".encode("cp1252"))
    assert texts(western)[0][0].startswith("Ein schöner")
    assert "Windows-1252" in western.notices[0]


def test_documents_that_cannot_be_used_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "gut, für alle ünd jeden\n--\n".encode() + b"caf\xe9\n--\n" + "schön\n".encode()
    found = ingest(tmp_path / "a.txt", content, "\n--\n")
    assert [t for t, _ in texts(found)] == ["gut, für alle ünd jeden", "schön"]
    assert [(r.line, "0xe9" in r.reason) for r in found.rejected] == [(3, True)]
    monkeypatch.setattr(lines_module, "MAX_ROW_BYTES", 16)
    found = ingest(tmp_path / "b.txt", "short\n--\n" + "long\n" * 9 + "--\nend\n", "--\n")
    assert [t for t, _ in texts(found)] == ["short", "end"]
    assert "data.reading.separator" in found.rejected[0].reason
    with pytest.raises(DataError, match="longer than 0 MiB"):
        ingest(tmp_path / "c.txt", "long\n" * 9)


def test_a_document_behind_a_line_that_is_no_text_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\nbad \x81\n\ntwo\n")
    found = read([tmp_path / "a.txt"], reading=Reading(encoding="cp1252", separator="\n\n"))
    assert texts(found) == [("one", 1), ("two", 5)]
    assert [(r.line, "not cp1252" in r.reason) for r in found.rejected] == [(3, True)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.txt", '{"prompt": "p", "completion": "c"}\n', "Name it .jsonl"),
        ("book.txt", b"%PDF-1.4", "a PDF"),
        ("empty.txt", " \n\n", "no rows"),
        ("q.jsonl", '{"document": "A text.", "question": "Why?"}', "data.columns.text=document"),
        ("odd.jsonl", '{"sonnet": "A text."}', "data.columns.text=sonnet"),
    ],
)
def test_what_is_no_plain_text_is_refused_with_the_way_out(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        ingest(tmp_path / name, content)


def test_rows_of_one_text_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("one", " ", "two")))
    found = read([path])
    assert [t for t, _ in texts(found)] == ["one", "two"]
    assert "empty" in found.rejected[0].reason
    path.write_text(json.dumps({"text": "a", "stars": 5, "book": "b"}) + "\n")
    said = read([path], Columns(text="text", group="book"))
    assert (said.examples[0].group, said.ignored) == ("b", ("stars",))
    for columns, words in ((Columns(text="text", prompt=("book",)), "has no prompt"), (Columns(text="a"), "no column")):
        with pytest.raises(DataError, match=words):
            read([path], columns)
    with pytest.raises(ValueError, match="no prompt"):
        prompt_of({"text": "a"}, Columns(text="text"))
    with pytest.raises(DataError, match="separator is empty"):
        ingest(tmp_path / "a.txt", "x", "")


def test_documents_are_held_out_whole_and_by_what_they_say(tmp_path: Path) -> None:
    words = [f"Document {n} says this.\n\nAnd more." for n in range(40)]
    found = ingest(tmp_path / "a.txt", "\n%\n".join([*words, words[3].upper()]), "\n%\n")
    parts = split(found.examples, 0.2, 0.2, "0")
    assert min(map(len, (parts.train, parts.dev, parts.test))) > 2
    keys = keys_of(found.examples)
    assert len(set(keys)) == 40  # one document in capitals is the same one
    assert [key(e) for e in found.examples][3] == key(found.examples[40])
    assert len({e.id for e in found.examples}) == 41


def test_texts_about_data_are_none_of_it(tmp_path: Path) -> None:
    def make(*names: str) -> Path:
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("a text")
        return folder

    books = make("README.md", "README_fr.md", "LICENSE-MIT.txt", "notices.txt", "one.txt", "two.md")
    assert [p.name for p in find_splits(books)["train"]] == ["notices.txt", "one.txt", "two.md"]
    mixed = make("README.md", "notes.txt", "train.jsonl")
    assert [p.name for p in find_splits(mixed)["train"]] == ["train.jsonl"]
    named = find_splits(make("train.txt", "test_new.txt"))
    assert {part: [p.name for p in files] for part, files in named.items()} == {
        "train": ["train.txt"], "test": ["test_new.txt"],
    }  # fmt: skip
