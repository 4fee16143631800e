"""A whole model written by our own writer: the bytes of transformers' own, with their digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests import tiny
from transformers import modeling_utils

from tunesmith.models import whole
from tunesmith.models.whole import save_whole


@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral", "t5"])
def test_a_whole_model_is_written_byte_for_byte(family: str, tmp_path: Path) -> None:
    """Tied weights, and experts that are put together in memory and apart on the disk."""
    model = tiny.build(family)
    plain = modeling_utils.safe_save_file
    hashed = save_whole(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("ours", "theirs"))
    assert ours == theirs
    assert list(hashed) == ["model.safetensors"]
    assert hashed == {name: hashlib.sha256(ours[name]).hexdigest() for name in hashed}
    assert modeling_utils.safe_save_file is plain


def test_what_cannot_be_written_leaves_the_library_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = modeling_utils.safe_save_file

    def full(*given: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save_whole(tiny.build("llama"), tmp_path / "ours")
    assert modeling_utils.safe_save_file is plain


def test_a_transformers_with_another_name_for_its_writer_writes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "NAME", "another")
    assert save_whole(tiny.build("llama"), tmp_path / "ours") == {}
    assert (tmp_path / "ours" / "model.safetensors").is_file()
