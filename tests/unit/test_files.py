"""Folders are whole or absent; damage is seen; digests depend on content alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from tunesmith import files
from tunesmith.files import broken_files, publish_folder, save_tensors, sha256_file, tensors_digest, write_json


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "out"

    def half(folder: Path) -> None:
        (folder / "a").write_text("1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_folder(half, final)
    assert list(tmp_path.iterdir()) == []
    publish_folder(lambda f: (f / "a").write_text("1"), final)
    with pytest.raises(OSError, match="disk full"):
        publish_folder(half, final)
    assert (final / "a").read_text() == "1"
    publish_folder(lambda f: (f / "a").write_text("2"), final)
    assert (final / "a").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest"])
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    folder = publish_folder(lambda f: (f / "a").write_bytes(b"abc"), tmp_path / "out")
    assert broken_files(folder) == []
    if damage == "flip":
        (folder / "a").write_bytes(b"abd")
    elif damage == "cut":
        (folder / "a").write_bytes(b"ab")
    elif damage == "gone":
        (folder / "a").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert broken_files(folder) == ["manifest.json" if damage == "manifest" else "a"]


def test_digest_of_tensors() -> None:
    a, b = torch.arange(4.0), torch.zeros(2, dtype=torch.bfloat16)
    one = tensors_digest([("a", a), ("b", b)])
    assert one == tensors_digest([("b", b.clone()), ("a", a.clone())])
    others = [
        [("a", a), ("c", b)],
        [("a", a.view(2, 2)), ("b", b)],
        [("a", a.double()), ("b", b)],
        [("a", a + 1), ("b", b)],
    ]
    assert all(one != tensors_digest(o) for o in others)


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("piece", [3, 2**24])
def test_tensors_are_written_as_safetensors_writes_them(tmp_path: Path, piece: int, monkeypatch: Any) -> None:
    """Byte for byte, whatever is written at once; the digest is that of the file."""
    monkeypatch.setattr(files, "PIECE", piece)
    monkeypatch.setattr(files, "CACHED", 40)
    given_back: list[int] = []
    plain = files.give_back_pages
    monkeypatch.setattr(files, "give_back_pages", lambda file: (given_back.append(1), plain(file)))
    tensors = {
        "w": torch.randn(3, 5), "a": torch.randn(2, 2).T, "half": torch.randn(7).bfloat16(), "none": torch.zeros(0, 4),
        "one": torch.tensor(3), "is": torch.tensor([True, False, True]), "é": torch.arange(5, dtype=torch.uint8),
        "d": torch.randn(2).double(), "i": torch.arange(3, dtype=torch.int32), "f": torch.randn(3).half(),
    }  # fmt: skip
    for metadata in (None, {"format": "pt"}):
        digest = save_tensors(tensors, tmp_path / "t.safetensors", metadata)
        plainly = save({n: t.contiguous() for n, t in tensors.items()}, metadata)
        assert (tmp_path / "t.safetensors").read_bytes() == plainly
        assert digest == sha256_file(tmp_path / "t.safetensors")
    assert given_back
    read = load_file(tmp_path / "t.safetensors")
    assert all(torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in tensors.items())


def test_a_manifest_takes_the_digest_of_what_was_hashed_while_it_was_written(tmp_path: Path) -> None:
    """Of what was to be written: where the disk kept something else, the folder is damaged."""

    def fill(out: Path) -> dict[str, str]:
        digest = save_tensors({"w": torch.ones(4)}, out / "w.safetensors")
        (out / "other").write_text("x")
        return {"w.safetensors": digest}

    folder = publish_folder(fill, tmp_path / "out")
    assert broken_files(folder) == []
    bad = publish_folder(lambda out: fill(out) | {"w.safetensors": "0" * 64}, tmp_path / "bad")
    assert broken_files(bad) == ["w.safetensors"]


def test_what_the_system_refused_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"t\.safetensors"):
        save_tensors({"w": torch.ones(1)}, tmp_path / "gone" / "t.safetensors")
