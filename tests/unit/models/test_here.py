"""What memory is free while models are loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.models.here import memory_gib

MIB = 2**20


@pytest.mark.skipif(not hasattr(psutil.Process().memory_info(), "shared"), reason="told on Linux alone")
def test_weights_that_are_mapped_from_their_file_are_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine counts their pages as free, since it could read them again."""
    monkeypatch.delenv("TUNESMITH_MEMORY_GIB", raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**31, total=2**34))
    save_file({"w": torch.ones(64 * MIB // 4)}, tmp_path / "w.safetensors")
    before = memory_gib("cpu")
    held = load_file(tmp_path / "w.safetensors")
    assert float(held["w"].sum()) == 64 * MIB // 4
    assert before - memory_gib("cpu") == pytest.approx(64 / 1024, abs=4 / 1024)
