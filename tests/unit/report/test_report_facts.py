"""A broken file is an error that names itself; a missing one is only missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.report.run_folders import AUDIT, VERDICT, make

from tunesmith.errors import DataError
from tunesmith.report.data_view import data
from tunesmith.report.facts import base_model, read


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("verdict.json", "{", "verdict.json line 1 is not JSON"),
        ("verdict.json", "[]", "holds a list; wanted an object"),
        ("verdict.json", '{"decision": "better"}', "lacks metric, base, tuned, effect, interval"),
        ("scores/forms.json", "{}", "is not a list of objects"),
        ("scores/cases.parquet", "no", "is not a Parquet file"),
        ("metrics.jsonl", '{"update": 1\n{}\n', "metrics.jsonl line 1 is not JSON"),
    ],
)
def test_broken_files(tmp_path: Path, file: str, content: str, found: str) -> None:
    (make(tmp_path) / file).write_text(content)
    with pytest.raises(DataError, match=found):
        read(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (make(tmp_path) / "recipe.yaml").write_bytes(b"model: \xff")
    with pytest.raises(DataError, match=r"recipe.yaml is not UTF-8 text \(byte 7\)"):
        read(tmp_path)


def test_a_half_written_last_line_is_said(tmp_path: Path) -> None:
    (make(tmp_path) / "metrics.jsonl").write_text('{"update": 1, "loss": 2.0}\n{"update": 2, "lo')
    facts = read(tmp_path)
    assert facts.metrics == ({"update": 1, "loss": 2.0},)
    assert [m.file for m in facts.missing] == ["metrics.jsonl, last line"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the files of a run"):
        read(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read(tmp_path / "gone")


def test_base_model_from_a_name_or_a_mapping(tmp_path: Path) -> None:
    assert base_model(read(make(tmp_path))).base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    found = base_model(read(make(tmp_path, plan={"model": "a/b"})))
    assert (found.name, found.base_model, found.digest) == ("a/b", "", "cd" * 32)


def test_the_name_is_the_run_s(tmp_path: Path) -> None:
    assert read(make(tmp_path)).name == VERDICT["run"]
    assert read(make(tmp_path / "monday", verdict=None, without=("verdict.json",))).name == "monday"


def test_data_of_a_whole_audit() -> None:
    found = data(
        {
            "rows": 1050,
            "accepted": 1000,
            "rejected": {"count": 50, "rows": [{"file": "a.csv", "line": 1017, "reason": "empty"}]},
            "dropped": {"count": 0, "examples": []},
            "duplicates": {"exact": {"count": 3, "examples": [{"id": "x", "source": "a.csv:4"}]}},
            "contradictions": {"prompts": 1, "rows": 2, "examples": [{"good": ["a.csv:5"], "bad": ["a.csv:6"]}]},
            "splits": {"train": 800, "dev": 100, "test": 100},
            "tokens": {"total": 4000, "learned": 500, "learned_frac": 0.125, "length_quantiles": {"0": 3, "1": 90}},
            "classes": {"good": {"train": 400, "test": 50}, "bad": {"train": 400, "test": 50}},
            "warnings": ["50 rows were rejected"],
            "novel": {"x": 1},
        }
    )
    assert ("rejected", "50") in found.counted
    assert ("learned share", "12.5%") in found.counted
    rejected = found.listings[0]
    assert (rejected.num, rejected.columns, rejected.rows) == (50, ("row", "reason"), (("a.csv:1017", "empty"),))
    assert {found.title: found.num for found in found.listings[1:]} == {
        "Examples dropped": 0,
        "Rows identical to an earlier one": 3,
        "Prompts that stand with more than one label": 1,
    }
    assert found.lengths == [("whole example", ["3", "90"])]
    assert found.length_names == ["shortest", "longest"]
    assert found.classes == [("good", ["400", "50"]), ("bad", ["400", "50"])]
    assert found.rest == [("novel", "x: 1")]
    assert data(AUDIT).pieces == [("<user>Where is it?</user>", False), ("delivery", True)]
