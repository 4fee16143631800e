"""Data sets on the hub, through the one seam: a folder stands for the hub here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tunesmith.data.hub import CONVERTED, UPLOADED, Unreachable, is_hub_name
from tunesmith.data.ingest import read
from tunesmith.data.located import files_named, find_splits
from tunesmith.data.rows import COLUMNAR
from tunesmith.errors import DataError


class FolderHub:
    """A folder per revision; `/` of a revision's name is `_`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.num_bytes, self.state = 0, "a" * 40
        self.pieces: list[int] = []

    def files(self, name: str, revision: str) -> list[str]:
        folder = self.root / name / revision.replace("/", "_")
        return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]

    def download(self, name: str, revision: str, files: Sequence[str]) -> Path:
        self.asked += files
        return self.root / name / revision.replace("/", "_")

    def commit(self, name: str, revision: str) -> str:
        return self.state

    @contextmanager
    def opened(self, name: str, commit: str, file: str) -> Iterator[Counting]:
        """Bytes that are read are counted."""
        self.asked.append(file)
        with Counting(self.root / name / CONVERTED.replace("/", "_") / file) as stream:
            try:
                yield stream
            finally:
                self.num_bytes += stream.num_bytes
                self.pieces += stream.pieces


class Counting(FileIO):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.num_bytes = 0
        self.pieces: list[int] = []

    def readinto(self, buffer: Any) -> int:
        num = super().readinto(buffer) or 0
        self.num_bytes += num
        return num

    def read(self, size: int = -1) -> bytes:
        piece = super().read(size) or b""
        self.pieces.append(len(piece))
        self.num_bytes += len(piece)
        return piece


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


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    """Two files of 20,000 rows in 40 groups each, of which the hub's copy is a part."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "o/large" / CONVERTED.replace("/", "_") / "default/partial-train"
    folder.mkdir(parents=True)
    for part in range(2):
        texts = [hashlib.sha256(f"{part} {k}".encode()).hexdigest() for k in range(20_000)]
        table = pa.table({"prompt": texts, "completion": [f"{part} {k}" for k in range(20_000)]})
        pq.write_table(table, folder / f"000{part}.parquet", row_group_size=500)
    return FolderHub(tmp_path)


def test_the_first_rows_are_streamed_and_the_rest_is_not_fetched(large: FolderHub) -> None:
    """Mutant: a file is fetched whole, and cut here."""
    [path] = find_splits("o/large?rows=1200", large)["train"]
    rows = pq.read_table(path).to_pylist()
    assert (path.name, len(rows), rows[-1]["completion"]) == ("train.first_1200_rows.parquet", 1200, "0 1199")
    size = sum(file.stat().st_size for file in large.root.rglob("000?.parquet"))
    assert large.asked == ["default/partial-train/0000.parquet"]
    assert 0 < large.num_bytes < 0.2 * size
    assert read([path]).num_rows == 1200
    assert [f.name for f in files_named("o/large:train?rows=7", large)] == ["train.first_7_rows.parquet"]


def test_files_that_are_here_are_read_piece_by_piece_too(large: FolderHub) -> None:
    """Mutant: pyarrow's own default, which asks for all row groups at once."""
    [path] = large.root.rglob("0000.parquet")
    with Counting(path) as stream:
        next(iter(COLUMNAR["parquet"](stream)))
        assert stream.num_bytes < 0.2 * path.stat().st_size


def test_a_stream_goes_on_in_the_next_file_and_ends_with_the_last(large: FolderHub) -> None:
    for num in (20_001, 100_000):
        [path] = find_splits(f"o/large?rows={num}", large)["train"]
        said = pq.read_table(path).column("completion").to_pylist()
        assert (len(said), said[20_000]) == (min(num, 40_000), "1 0")


def test_a_stream_in_bounded_memory(large: FolderHub) -> None:
    """No more is asked for at a time, though one row group is the file. Mutant: no buffer_size: whole columns are."""
    path = large.root / "o/large" / CONVERTED.replace("/", "_") / "default/partial-train/0000.parquet"
    pq.write_table(pq.read_table(path), path)
    assert pq.ParquetFile(path).num_row_groups == 1
    find_splits("o/large?rows=40000", large)
    assert max(large.pieces) <= 2**20 < path.stat().st_size


def test_a_stream_that_is_here_is_taken_until_the_data_set_changes(large: FolderHub) -> None:
    first = find_splits("o/large?rows=10", large)
    asked = list(large.asked)
    assert find_splits("o/large?rows=10", large) == first
    assert find_splits("o/large?rows=10", NoNetwork()) == first  # without a network too
    assert large.asked == asked
    kept = first["train"][0].parent
    unfinished = kept.with_name(".partial_of_a_kill")
    unfinished.mkdir()
    (unfinished / "train.first_10_rows.parquet").touch()
    assert find_splits("o/large?rows=10", NoNetwork()) == first  # mutant: the newest folder, whatever it is
    large.state = "b" * 40
    assert find_splits("o/large?rows=10", large) != first
    with pytest.raises(DataError, match="could not be reached"):
        find_splits("o/large?rows=11", NoNetwork())


def test_lines_are_streamed_and_tables_of_text_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "o/raw" / UPLOADED
    folder.mkdir(parents=True)
    hub = FolderHub(tmp_path)
    (tmp_path / "o/raw" / CONVERTED.replace("/", "_")).symlink_to(folder)
    monkeypatch.setattr(FolderHub, "files", lambda self, name, revision: ["train.jsonl"] * (revision == UPLOADED))
    (folder / "train.jsonl").write_text("".join(f'{{"text": "{k}"}}\n\n' for k in range(50)))
    [path] = find_splits("o/raw?rows=3", hub)["train"]
    assert path.read_text() == '{"text": "0"}\n{"text": "1"}\n{"text": "2"}\n'
    monkeypatch.setattr(FolderHub, "files", lambda self, name, revision: ["train.csv"] * (revision == UPLOADED))
    with pytest.raises(DataError, match=r"only Parquet and JSON lines .* Leave \?rows= out"):
        find_splits("o/raw?rows=4", hub)


def test_a_stream_that_breaks_leaves_nothing(large: FolderHub, tmp_path: Path) -> None:
    """Mutant: rows written so far are taken for all at the next try."""

    @contextmanager
    def broken(name: str, commit: str, file: str) -> Iterator[Counting]:
        with FolderHub.opened(large, name, commit, file) as stream:
            yield stream
        raise Unreachable("ReadTimeout")

    large.opened = broken  # type: ignore[method-assign]
    with pytest.raises(DataError, match="ReadTimeout"):
        find_splits("o/large?rows=30000", large)
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []
