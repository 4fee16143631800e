"""All that a document says stands in one passage or another, and what cannot be read is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import DataError
from tunesmith.synthesise import PASSAGE_CHARS, passages


def texts(source: Path) -> list[str]:
    return [example.prompt[0].content for example in passages(source)[0]]


def test_a_long_paragraph_is_cut_behind_a_sentence(tmp_path: Path) -> None:
    """A page of a PDF is one paragraph. Mutant: what does not fit into the first passage is lost."""
    sentences = [f"The {k}th machine of the hall stands beside a window\nand waits." for k in range(90)]
    path = tmp_path / "page.txt"
    path.write_text("A heading\n\n" + " ".join(sentences) + "\n\n" + "x" * (2 * PASSAGE_CHARS + 5) + "\n\nThe end.")
    found = texts(path)
    assert all(0 < len(text) <= PASSAGE_CHARS for text in found)
    assert found[0].startswith(f"A heading\n\n{sentences[0]} {sentences[1]}")
    assert [sum(sentence in text for text in found) for sentence in (*sentences, "The end.")] == [1] * 91
    assert sum(text.count("x") for text in found) == 2 * PASSAGE_CHARS + 5


def test_a_folder_is_read_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\nIt is so.")
    (tmp_path / "b.txt").write_bytes("été ".encode() * 20 + b"\xff")
    (tmp_path / "c.txt").write_text("Two.")
    found, notes = passages(tmp_path)
    assert [(e.source, e.prompt[0].content) for e in found] == [
        (f"{tmp_path}/a.md:1#1", "# One\n\nIt is so."), (f"{tmp_path}/c.txt:1#1", "Two.")
    ]  # fmt: skip
    assert len(notes) == 1
    assert "b.txt:1" in notes[0]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(DataError, match="holds no text to ask about"):
        passages(tmp_path / "rows.jsonl")
