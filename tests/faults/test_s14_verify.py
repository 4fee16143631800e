"""S14 and `tunesmith verify`, `tunesmith reproduce`: one flipped byte anywhere in a run folder is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.runs.mistakes import changed, copied, typed, world

from tunesmith import sealed
from tunesmith.errors import DataError, InputError
from tunesmith.verified import Check, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(copied(made, tmp_path))
    return tmp_path


def failed(checks: list[Check]) -> dict[str, str]:
    return {c.name: c.found for c in checks if c.passed is False}


def test_a_run_is_what_it_says(here: Path) -> None:
    said = typed(["verify", "run", "--json"])
    assert said.code == 0, said.text
    checks = json.loads(said.out)["checks"]
    assert [c["passed"] for c in checks] == [True] * len(checks)
    assert {c["name"] for c in checks} >= {"files", "data: rows.jsonl", "base model", "opens", "scores", "verdict"}


def test_one_flipped_byte_in_any_file_is_found(here: Path) -> None:
    """Every file of the folder, at three places each; the check of files alone, which is all that looks at bytes."""
    names = [*sealed.files_in(here / "run"), sealed.SEAL]
    num = 0
    for name in names:
        path = here / "run" / name
        whole = path.read_bytes()
        for at in sorted({0, len(whole) // 2, len(whole) - 1}):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            num += 1
            try:
                found = sealed.changed(here / "run")
            except DataError:
                assert name == sealed.SEAL
            else:
                assert found[0] == [name] or name == sealed.SEAL, (name, at, found)
                assert any(found)
        path.write_bytes(whole)
    assert sealed.changed(here / "run") == ([], [], [])
    print(f"S14: {len(names)} files, {num} flipped bytes, all found")


def test_files_that_went_and_came_are_named(here: Path) -> None:
    (here / "run" / "plan.json").unlink()
    (here / "run" / "adapter" / "more.py").write_text("x")
    said = typed(["verify", "run"])
    assert said.code == 1
    assert "plan.json is gone" in said.text
    assert "adapter/more.py was not there" in said.text


def reseal(folder: Path) -> None:
    sealed.seal(folder)


def change_case(folder: Path, column: str, value: object) -> None:
    path = folder / "run" / "scores" / "cases.parquet"
    table = pq.read_table(path)
    values = table.column(column).to_pylist()
    values[0] = value
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(values, table.schema.field(column).type)), path)


def test_behind_a_new_seal_each_lie_is_still_found(here: Path) -> None:
    """Whoever changes a file can seal anew: then the numbers speak. Mutants of a run, one at a time."""
    run = here / "run"
    kept = copied(run, here / "kept")

    def after(lie: object) -> dict[str, str]:
        reseal(run)
        found = failed(verify(run))
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        assert found, lie
        return found

    changed("run/verdict.json", decision="better", effect=0.5)(here)
    assert "effect is 0.5 in verdict.json" in after("the verdict")["verdict"]
    change_case(here, "tuned_output", "nothing of the kind")
    assert "another answer in cases.parquet" in after("an answer")["scores"]
    change_case(here, "tuned_score", 7.0)
    assert "7.0 in the file" in after("a score")["scores"]
    change_case(here, "example_id", "0" * 20 + "-1")
    assert "test cases" in after("a case")
    weights = run / "adapter" / "adapter_model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "the verdict is about" in after("the weights")["tuned weights"]
    (here / "rows.jsonl").write_text((here / "rows.jsonl").read_text().replace("fox", "box", 1))
    assert "other bytes" in after("the data")["data: rows.jsonl"]


def test_what_is_not_here_is_not_said_to_be_the_same(here: Path) -> None:
    (here / "rows.jsonl").unlink()
    shutil.move("model", "elsewhere")
    checks = {c.name: c for c in verify(here / "run")}
    assert checks["data: rows.jsonl"].passed is None
    assert checks["base model"].passed is None
    assert checks["verdict"].passed


def test_commands_that_write_into_a_run_seal_it_anew(here: Path) -> None:
    for words in ("report run", "gate run --set gates.effect=-1", "explain run", "export run --to merged"):
        assert typed(words.split()).code == 0, words
    assert sealed.changed(here / "run") == ([], [], [])


def test_a_run_that_was_not_ended_is_said_to_be_so(here: Path) -> None:
    (here / "run" / "seal.json").unlink()
    assert "has no seal.json" in failed(verify(here / "run"))["files"]
    with pytest.raises(InputError, match="there is no folder"):
        verify(here / "nowhere")


def test_a_link_out_of_the_folder_is_not_followed(here: Path) -> None:
    (here / "run" / "zero").symlink_to("/dev/zero")
    assert "zero" not in sealed.files_in(here / "run")


def test_the_same_run_again_has_the_same_weights(here: Path) -> None:
    said = typed(["reproduce", "run", "--out", "again", "--json"])
    assert said.code == 0, said.text
    facts = json.loads(said.out)
    assert facts["identical"]
    assert facts["same_answers"] == facts["num_answers"] > 0
    assert facts["differs"] == []


def test_what_differs_is_named(here: Path) -> None:
    """Other data: other weights, and the file is named. A reproduction that compared nothing would say the same."""
    rows = (here / "rows.jsonl").read_text().splitlines()
    (here / "rows.jsonl").write_text("\n".join(reversed(rows)) + "\n")
    said = typed(["reproduce", "run", "--json"])
    assert said.code == 1, said.text
    facts = json.loads(said.out)
    assert not facts["identical"]
    assert "data.rows.jsonl" in {row["what"] for row in facts["differs"]}
    assert Path(facts["folder"]) == Path("run-again")
