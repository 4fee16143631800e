"""Hints at near names, memory that ran out, and files of a run that were cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tests.faults.writers import Said
from tests.unit.report import run_folders

from tunesmith import recorded
from tunesmith.errors import DataError, did_you_mean, is_memory
from tunesmith.files import read_json, write_json, write_text
from tunesmith.folder import RunFolder, Silent


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    assert did_you_mean("lable", ["text", "label"]) == " Did you mean label?"
    assert did_you_mean("customer", ["text", "label"]) == ""
    assert did_you_mean("x", []) == ""


def test_memory_that_ran_out_is_known_in_all_its_forms() -> None:
    with pytest.raises(RuntimeError) as torch_says:
        torch.empty(2**60)
    assert is_memory(torch_says.value)
    assert is_memory(MemoryError())
    assert not is_memory(RuntimeError("size mismatch"))


def test_json_that_was_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": [1, 2, 3]})
    assert read_json(path) == {"a": [1, 2, 3]}
    for content in (path.read_bytes()[:10], b"\xff\xfe\x00", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"facts\.json is not the JSON that tunesmith wrote .* cut or edited"):
            read_json(path)


def test_a_text_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_text(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "after \udc80")  # fails in the middle of the write
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_folder_is_taken_back_until_something_is_done_in_it(tmp_path: Path) -> None:
    new = RunFolder.open(tmp_path / "new", Silent(), resume=False)
    (new.path / "scores").mkdir()
    new.take_back()
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    RunFolder.open(tmp_path / "empty", Silent(), resume=False).take_back()
    assert list((tmp_path / "empty").iterdir()) == []  # whose folder it was stays
    begun = RunFolder.open(tmp_path / "begun", Silent(), resume=False)
    begun.write("lock.json", {})
    begun.take_back()
    assert (tmp_path / "begun" / "lock.json").is_file()


def test_a_file_system_without_locks_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folders.make(tmp_path / "runs" / "a")
    (run / ".lock").touch()

    def refuse(self: FileLock, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    said = Said()
    RunFolder.open(run, said, resume=True).close()
    recorded.record(run, said)
    assert [" without locks" in line for line in said.lines] == [True, True], said.lines
    assert said.lines[1].startswith("this run is not in the store")
