"""Encodings and delimiters as files of people have them: found or said, and never garbled in silence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tunesmith.data.ingest import read
from tunesmith.data.rows import Reading
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipe import parse

WESTERN = "prompt;completion\nCafé für zwölf;naïve “Straße” – 5 €\nq;d\n"
RUSSIAN = "prompt;completion\nПривет, как дела?;Хорошо, спасибо\n"


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_the_same_examples_whatever_the_encoding(tmp_path: Path, encoding: str, is_packed: bool) -> None:
    content = WESTERN.encode(encoding)
    path = put(tmp_path, "a.csv.gz" if is_packed else "a.csv", gzip.compress(content) if is_packed else content)
    found = read([path])
    assert found.examples[0].prompt[0].content == "Café für zwölf"
    assert found.examples[0].target.text == "naïve “Straße” – 5 €"  # type: ignore[union-attr]
    assert (found.found["delimiter"], found.rejected) == (";", ())
    guessed = encoding in ("cp1252", "utf-16-le", "utf-16-be")
    assert len(found.notices) == guessed
    assert encoding != "cp1252" or "read as Windows-1252, where one word reads 'Café'" in found.notices[0]


def test_what_is_neither_is_refused_until_it_is_said(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", RUSSIAN.encode("cp1251"))
    with pytest.raises(DataError, match=r"not Western European either .*'Ïðèâåò'.*data.reading.encoding"):
        read([path])
    found = read([path], reading=Reading(encoding="cp1251"))
    assert (found.examples[0].prompt[0].content, found.notices) == ("Привет, как дела?", ())
    with pytest.raises(DataError, match="'utf-9', which is no encoding"):
        read([path], reading=Reading(encoding="utf-9"))


def test_a_wrong_encoding_that_was_said_rejects_rows(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b"prompt,completion\np,c\ncaf\xe9,c\n")
    found = read([path], reading=Reading(encoding="ascii"))
    assert [(r.line, r.reason) for r in found.rejected] == [(3, "holds bytes that are not ascii")]


def test_jsonl_in_an_encoding_that_is_said(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"prompt": "Café", "completion": "c"}\n'.encode("cp1252"))
    with pytest.raises(DataError, match="byte 0xe9"):
        read([path])
    assert read([path], reading=Reading(encoding="cp1252")).examples[0].prompt[0].content == "Café"


BINARIES = [
    (b"PK\x03\x04 and more", "zip archive, such as an Excel workbook"),
    (b"%PDF-1.7", "a PDF"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "holds zero bytes"),
    (gzip.compress(b"a,b\n", mtime=0), "name it .gz"),
]


@pytest.mark.parametrize(("content", "message"), BINARIES)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read([put(tmp_path, "a.csv", content)])


@pytest.mark.parametrize(
    ("delimiter", "content"),
    [
        (";", "prompt;completion\na,b;c\n"),
        ("\t", "prompt\tcompletion\na,b;c\td\n"),
        ("tab", "prompt\tcompletion\na,b;c\td\n"),
        ("~", "prompt~completion\na,b~c\n"),
    ],
)
def test_delimiters_that_are_said(tmp_path: Path, delimiter: str, content: str) -> None:
    found = read([put(tmp_path, "a.csv", content.encode())], reading=Reading(delimiter=delimiter))
    assert [len(found.examples), found.columns.prompt] == [1, ("prompt",)]


def test_a_delimiter_that_cannot_be_one(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b"prompt,completion\na,b\n")
    for wrong in ("", ";;", '"', "\n"):
        with pytest.raises(DataError, match="wanted one character"):
            read([path], reading=Reading(delimiter=wrong))


def test_the_line_that_excel_writes_before_the_header(tmp_path: Path) -> None:
    found = read([put(tmp_path, "a.csv", b"sep=|\nprompt|completion\na|b\nonly\n")])
    assert (len(found.examples), found.rejected[0].line) == (1, 4)


def test_quoted_newlines_and_ragged_rows(tmp_path: Path) -> None:
    content = 'prompt;completion\n"a\nb;c";d\ne;f;g\n"h\n\ni";j\nk\n'
    found = read([put(tmp_path, "a.csv", content.encode())])
    assert [e.prompt[0].content for e in found.examples] == ["a\nb;c", "h\n\ni"]
    assert [str(r).rpartition("a.csv:")[2] for r in found.rejected] == [
        "4: has 3 fields, the header has 2",
        "8: has 1 fields, the header has 2",
    ]


def test_how_files_are_read_stands_in_the_recipe() -> None:
    recipe = parse({"data": {"reading": {"delimiter": ";", "encoding": "cp1252", "sheet": "A"}}})
    assert recipe.data.reading == Reading(";", "cp1252", "A")
    with pytest.raises(RecipeError, match=r"did you mean data.reading.encoding"):
        parse({"data": {"reading": {"encodng": "cp1252"}}})
