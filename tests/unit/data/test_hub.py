"""Data sets on the hub, through the one seam: a folder stands for the hub here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.data.hub import CONVERTED, UPLOADED, Unreachable, is_hub_name
from tunesmith.data.ingest import read
from tunesmith.data.located import files_named, find_splits
from tunesmith.errors import DataError


class FolderHub:
    """A folder per revision; `/` of a revision's name is `_`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []

    def files(self, name: str, revision: str) -> list[str]:
        folder = self.root / name / revision.replace("/", "_")
        return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    def download(self, name: str, revision: str, files: Sequence[str]) -> Path:
        self.asked += files
        return self.root / name / revision.replace("/", "_")


class NoNetwork:
    def files(self, name: str, revision: str) -> list[str]:
        raise Unreachable("ConnectError")

    def download(self, name: str, revision: str, files: Sequence[str]) -> Path:
        raise Unreachable("ConnectError")


def put(root: Path, name: str, revision: str, *files: str) -> None:
    for file in files:
        path = root / name / revision.replace("/", "_") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".parquet"):
            pq.write_table(pa.table({"text": [file], "label": ["x"]}), path)
        else:
            path.write_text(json.dumps({"prompt": file, "completion": "x"}))


@pytest.fixture
def hub(tmp_path: Path) -> FolderHub:
    parts = ("train/0000", "train/0001", "validation/0000", "test/0000", "unsupervised/0000")
    put(tmp_path, "o/one", CONVERTED, *(f"default/{part}.parquet" for part in parts))
    put(tmp_path, "o/two", CONVERTED, "en/train/0000.parquet", "de/train/0000.parquet", "de/test/0000.parquet")
    put(tmp_path, "o/raw", UPLOADED, "README.md", ".gitattributes", "data/train.jsonl", "data/dev.jsonl")
    put(tmp_path, "o/big", CONVERTED, "default/partial-train/0000.parquet")
    put(tmp_path, "o/bare", UPLOADED, "README.md")
    put(tmp_path, "o/odd", CONVERTED, "default/a/0000.parquet", "default/b/0000.parquet")
    return FolderHub(tmp_path)


def names(found: dict[str, list[Path]]) -> dict[str, list[str]]:
    return {split: ["/".join(f.parts[-2:]) for f in files] for split, files in found.items()}


def test_splits_of_a_data_set(hub: FolderHub) -> None:
    assert names(find_splits("o/one", hub)) == {
        "train": ["train/0000.parquet", "train/0001.parquet"],
        "dev": ["validation/0000.parquet"],
        "test": ["test/0000.parquet"],
    }
    assert read(find_splits("o/one", hub)["train"]).num_rows == 2
    assert names(find_splits("o/two:de", hub)) == {"train": ["train/0000.parquet"], "test": ["test/0000.parquet"]}
    assert names(find_splits("o/raw", hub)) == {"train": ["data/train.jsonl"], "dev": ["data/dev.jsonl"]}


def test_one_split_that_is_named_is_all_that_is_fetched(hub: FolderHub) -> None:
    assert names(find_splits("o/one:default/test", hub)) == {"train": ["test/0000.parquet"]}
    assert hub.asked == ["default/test/0000.parquet"]
    assert [f.name for f in files_named("o/one:test", hub)] == ["0000.parquet"]
    assert [f.name for f in files_named("o/two:de/test", hub)] == ["0000.parquet"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("o/two", "configurations are de, en. Name one: o/two:de"),
        ("o/one:fr", "configurations are default"),
        ("o/one:default/dev", "the splits of default are test, train, unsupervised, validation"),
        ("o/big", "holds only a part"),
        ("o/bare", "no file that can be read"),
        ("o/none", "no file that can be read"),
        ("o/odd", "has the splits a, b and no train"),
    ],
)
def test_what_cannot_be_chosen_is_an_error_that_says_what_there_is(hub: FolderHub, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_splits(name, hub)


def test_a_test_split_has_to_be_one(hub: FolderHub) -> None:
    with pytest.raises(DataError, match="Name one"):
        files_named("o/one", hub)


def test_without_a_network_the_message_says_both(hub: FolderHub) -> None:
    with pytest.raises(DataError, match="no such file or folder here, and the hub could not be reached"):
        find_splits("o/one", NoNetwork())


def test_what_reads_as_a_path_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/mine", "o/rows.csv", "rows", "a/b/c", "../x/y", "~/x", "o/one:a/b/c", "o/one:"):
        assert not is_hub_name(name), name
        with pytest.raises(DataError, match="no such file or folder"):
            find_splits(name)
    for name in ("o/one", "o/one:de", "o/one:de/test", "O-1/x.y_z"):
        assert is_hub_name(name), name


def test_the_real_hub_offline_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set, so the hub is not asked .* unset it"):
        find_splits("o/nothing-of-that-name")
