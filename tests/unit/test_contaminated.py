"""What training rows contain of public tests is told in audit.json, in a warning and among the findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.contaminated import asked_in, of_public_tests, told
from tunesmith.data.ingest import read
from tunesmith.data.knobs import Data
from tunesmith.data.split import split
from tunesmith.errors import DataError

ASKED = "Which river flows through the city where my aunt repairs clocks?"


def rows(folder: Path, *prompts: str) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "completion": "yes"}) + "\n" for p in prompts))
    return path


def test_items_of_a_probe_and_of_a_named_benchmark_are_told(tmp_path: Path) -> None:
    """Mutants: only the probes; only the benchmark; the answers taken for items."""
    (tmp_path / "bench.jsonl").write_text(
        json.dumps({"id": 1, "question": ASKED, "rationale": "the long way round to the place " * 9}) + "\n"
        + "no json\n" + json.dumps({"id": 2, "question": "too short?"}) + "\n"
    )  # fmt: skip
    made = read([rows(tmp_path, "where is my order", f"hello. {ASKED} thanks", "Tell me: what do bees make?")])
    found = of_public_tests([str(tmp_path / "bench.jsonl")], made.examples)
    about, warning = found.facts, found.warning
    assert warning is not None
    assert found.finding is not None
    assert (about["count"], about["of"]) == (2, 3)
    assert about["tests"][str(tmp_path / "bench.jsonl")] == {"items": 2, "too_short": 1, "found": 1}
    assert about["tests"]["the guard probe 'general knowledge'"]["found"] == 1
    assert [row["source"].rpartition(":")[2] for row in about["examples"]] == ["2", "3"]
    assert "2 training rows contain items of public tests" in warning
    assert f"{tmp_path}/train.jsonl:2" in warning
    assert found.finding.kind == "contaminated"
    assert [source.rpartition(":")[2] for source in found.finding.every()] == ["2", "3"]  # type: ignore[misc]


def test_rows_of_another_kind_bring_no_word(tmp_path: Path) -> None:
    made = read([rows(tmp_path, "where is my order number 7 from last week", "the bees make me nervous")])
    found = of_public_tests([], made.examples)
    assert (found.warning, found.finding, found.facts["count"]) == (None, None, 0)


def test_near_copies_of_a_test_file_are_told_by_a_run(tmp_path: Path) -> None:
    """The split leaves such files as they are. Mutant: word for word copies alone are told."""
    long = [f"my {w} parcel from the {w}town depot never came to {w}ville by friday" for w in ("red", "blue", "green")]
    train = read([rows(tmp_path, *long, *(f"row {i} asks about {i * i} and nothing else" for i in range(5)))])
    near = read([rows(tmp_path, long[1].replace("friday", "monday"), "something else altogether is asked here")])
    for data, num in ((Data(), 1), (Data(near_together=False), None)):
        parts = split(train.examples, 0.0, 0.0, "s", given={"test": near.examples})
        found = told({"warnings": [], "near": {}}, data, parts, has_files=True)
        assert found["near"].get("test") == num
        assert len(found["warnings"]) == (num or 0)
    assert told({"warnings": [], "near": {}}, Data(), parts, has_files=False)["warnings"] == []


def test_what_is_asked_is_told_from_the_columns() -> None:
    assert asked_in(Path("a"), {"answer": "a long text of many words", "Question": "why?"}) == "Question"
    assert asked_in(Path("a"), {"n": 1, "stem": "a longer text", "key": "b"}) == "stem"
    with pytest.raises(DataError, match="no column of texts"):
        asked_in(Path("a"), {"n": 1})
