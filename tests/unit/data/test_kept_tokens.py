"""Rendered rows from the cache are the rendered rows; whatever decides them makes another key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.chat import tokenizer

from tunesmith.data import ingest, kept_tokens, render
from tunesmith.data.outcomes import Rendered
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Renderer


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_tokens, "LEAST", 8)


def rows(path: Path, *, last: str = "Yes") -> ingest.Ingested:
    """One is too long, one is cut away, two are the same."""
    texts = [("Hi", "Yes"), ("Hi", "Yes"), ("word " * 300, "No"), *((f"Is it {i}?", f"It is {i}.") for i in range(9))]
    written = [{"prompt": prompt, "completion": reply} for prompt, reply in [*texts, ("The last", last)]]
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return ingest.read([path])


def asked(found: ingest.Ingested, said: str = "", eos: str | None = None, **options: object) -> Rendered:
    known = tokenizer("chatml")
    known.eos_token = eos or known.eos_token
    renderer = Renderer(known, **{"max_tokens": 60, **options})  # type: ignore[arg-type]
    return kept_tokens.rendered(renderer, found.examples, found.examples, said, lambda done: None)


def is_same(a: Rendered, b: Rendered) -> bool:
    for one, other in zip(a.records, b.records, strict=True):
        for x, y in zip(one.segments, other.segments, strict=True):
            if not (
                np.array_equal(x.tokens, y.tokens) and np.array_equal(x.weights, y.weights) and x.parent == y.parent
            ):
                return False
    names = [[r.example_id for r in found.records] for found in (a, b)]
    sizes = all(np.array_equal(x, y) for x, y in zip(sizes_of(a.records), sizes_of(b.records)))
    return sizes and names[0] == names[1] and (list(a.dropped), list(a.cut), a.shown) == (
        list(b.dropped), list(b.cut), b.shown
    )  # fmt: skip


@pytest.mark.parametrize("too_long", ["drop", "cut"])
def test_the_second_time_nothing_is_rendered(too_long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = asked(rows(tmp_path / "rows.jsonl"), too_long=too_long)
    assert len(first.dropped) + len(first.cut) == 1
    monkeypatch.delattr(Renderer, "records")
    assert is_same(asked(rows(tmp_path / "rows.jsonl"), too_long=too_long), first)


def test_what_decides_the_records_decides_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(rows(tmp_path / "rows.jsonl"))
    asked(rows(tmp_path / "rows.jsonl"), "an instruction")
    asked(rows(tmp_path / "rows.jsonl"), max_tokens=61)
    asked(rows(tmp_path / "rows.jsonl"), too_long="cut")
    asked(rows(tmp_path / "rows.jsonl", last="No"))
    asked(rows(tmp_path / "rows.jsonl"), eos="<|im_start|>")  # which a template can write
    monkeypatch.setattr(kept_tokens, "code_digest", lambda: "of another state of the program")
    asked(rows(tmp_path / "rows.jsonl"))
    monkeypatch.setattr(kept_tokens.metadata, "version", lambda name: "of another state of the packages")
    asked(rows(tmp_path / "rows.jsonl"))
    assert len(list(kept_tokens.place().iterdir())) == 8
    asked(rows(tmp_path / "rows.jsonl"))
    assert len(list(kept_tokens.place().iterdir())) == 8


def test_a_damaged_file_is_not_read(tmp_path: Path) -> None:
    first = asked(rows(tmp_path / "rows.jsonl"))
    [folder] = kept_tokens.place().iterdir()
    path = folder / kept_tokens.RECORDS
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert is_same(asked(rows(tmp_path / "rows.jsonl")), first)
    assert path.read_bytes()[-1:] != b"?"


def test_two_processes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one puts the same there, or forgets it, between looking and acting."""
    found, rename = rows(tmp_path / "rows.jsonl"), os.replace

    def put_first(partial: Path, final: Path) -> None:
        shutil.copytree(partial, final)
        rename(partial, final)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", put_first)
        first = asked(found)
    [folder] = kept_tokens.place().iterdir()

    def forgotten(folder: Path) -> list[str]:
        shutil.rmtree(folder)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(kept_tokens, "broken_files", forgotten)
        assert is_same(asked(found), first)
    assert list(kept_tokens.place().iterdir()) == [folder]


def test_what_a_killed_process_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    for name in (".partial_old", ".partial_new"):
        (kept_tokens.place() / name).mkdir(parents=True)
    os.utime(kept_tokens.place() / ".partial_old", (1, 1))
    (kept_tokens.place() / "DS_Store").touch()  # as a viewer of folders leaves it
    asked(rows(tmp_path / "rows.jsonl"))
    assert [p.name for p in kept_tokens.place().glob(".*")] == [".partial_new"]


def test_few_rows_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_tokens, "LEAST", 100)
    asked(rows(tmp_path / "rows.jsonl"))
    assert not kept_tokens.place().exists()


def test_the_longest_unused_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, last in enumerate(("a", "b")):
        asked(rows(tmp_path / "rows.jsonl", last=last))
        newest = max(kept_tokens.place().iterdir(), key=lambda p: p.stat().st_mtime)
        os.utime(newest, (n + 1, n + 1))
    asked(rows(tmp_path / "rows.jsonl", last="a"))  # used
    size = sum(f.stat().st_size for p in kept_tokens.place().iterdir() for f in p.iterdir())
    monkeypatch.setattr(kept_tokens, "MOST_BYTES", size)
    asked(rows(tmp_path / "rows.jsonl", last="c"))
    monkeypatch.delattr(Renderer, "records")
    asked(rows(tmp_path / "rows.jsonl", last="a"))
    with pytest.raises(AttributeError):
        asked(rows(tmp_path / "rows.jsonl", last="b"))


def test_many_are_rendered_by_several_processes_as_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = rows(tmp_path / "rows.jsonl").examples
    whole = Renderer(tokenizer("chatml"), 60, "cut").records(list(examples))
    monkeypatch.setattr(render, "LEAST_SPREAD", 4)
    monkeypatch.setattr(render, "CHUNK", 3)
    monkeypatch.setattr(render, "cores", lambda: 3)
    told: list[int] = []
    spread = Renderer(tokenizer("chatml"), 60, "cut").records(examples, told.append)
    assert is_same(spread, whole)
    assert told == [0, 3, 6, 9, 12]
