"""What goes to the hub, through its seam. The fake stands for huggingface_hub, which is not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import InputError, RunError
from tunesmith.export.hub import Parcel, may_push, parcel, push


class FakeHub:
    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        self.calls.append(("create", {"repo": repo_id, "private": private, "exist_ok": exist_ok}))
        return None

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, ignore_patterns: list[str]
    ) -> object:
        self.calls.append(("upload", {"repo": repo_id, "folder": folder_path, "ignore": ignore_patterns}))
        if self.error is not None:
            raise self.error
        return None


@pytest.fixture
def sent(tmp_path: Path) -> Parcel:
    for name in ("README.md", "model.safetensors", "manifest.json", "checked.json"):
        (tmp_path / name).write_text("x" * 10)
    return parcel(tmp_path, "me/model")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")


def test_a_push_is_private_and_leaves_out_what_is_of_this_machine(sent: Parcel) -> None:
    assert sent.files == (("README.md", 10), ("model.safetensors", 10))
    hub = FakeHub()
    assert push(sent, hub) == "https://huggingface.co/me/model"
    assert hub.calls == [
        ("create", {"repo": "me/model", "private": True, "exist_ok": True}),
        ("upload", {"repo": "me/model", "folder": sent.folder, "ignore": ["manifest.json", "checked.json"]}),
    ]


def test_a_failed_upload_is_one_message(sent: Parcel) -> None:
    with pytest.raises(RunError, match=r"me/model could not be uploaded .*no route"):
        push(sent, FakeHub(ConnectionError("no route")))


def test_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    may_push("me/model")
    for name in ("model", "a/b/c", "me/mo del", ""):
        with pytest.raises(InputError, match="wanted owner/name"):
            may_push(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        may_push("me/model")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr("tunesmith.export.hub.get_token", lambda: None)
    with pytest.raises(InputError, match="HF_TOKEN"):
        may_push("me/model")
