"""Folders are whole or absent; damage is seen; digests depend on content alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tunesmith.files import broken_files, publish_folder, tensors_digest, write_json


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "out"

    def half(folder: Path) -> None:
        (folder / "a").write_text("1")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_folder(half, final)
    assert list(tmp_path.iterdir()) == []
    publish_folder(lambda f: (f / "a").write_text("1"), final)  # type: ignore[arg-type, return-value]
    with pytest.raises(OSError, match="disk full"):
        publish_folder(half, final)
    assert (final / "a").read_text() == "1"
    publish_folder(lambda f: (f / "a").write_text("2"), final)  # type: ignore[arg-type, return-value]
    assert (final / "a").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "manifest"])
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    folder = publish_folder(lambda f: (f / "a").write_bytes(b"abc"), tmp_path / "out")  # type: ignore[arg-type, return-value]
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
