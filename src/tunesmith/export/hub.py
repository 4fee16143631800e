"""The seam to the hub for what is put there: an exported folder as a repository, private unless its owner opens it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from tunesmith.errors import InputError, RunError
from tunesmith.offline import forbidden_by

NAME = re.compile(r"[\w.-]+/[\w.-]+")
NOT_PUSHED = ("manifest.json", "checked.json")  # of this machine


class Hub(Protocol):
    """What of huggingface_hub is used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object: ...
    def upload_folder(
        self, *, repo_id: str, folder_path: Path, commit_message: str, ignore_patterns: list[str]
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Parcel:
    """What would be uploaded."""

    repo: str
    folder: Path
    files: tuple[tuple[str, int], ...]  # (name, bytes)


def may_push(repo: str) -> None:
    """Before anything is written: raises InputError at a name that is none, a switch for no network, no token."""
    if not NAME.fullmatch(repo):
        raise InputError(f"--push {repo}: wanted owner/name, such as --push my-name/my-model")
    switch = forbidden_by()
    if switch is not None:
        raise InputError(f"--push needs the network, and {switch} is set: unset it, or export without --push")
    if get_token() is None:
        raise InputError("--push needs a token that may write: set HF_TOKEN, or sign in with `hf auth login`")


def parcel(folder: Path, repo: str) -> Parcel:
    """All of the folder but what is of this machine only."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in NOT_PUSHED)
    return Parcel(repo, folder, tuple((str(p.relative_to(folder)), p.stat().st_size) for p in files))


def push(sent: Parcel, hub: Hub | None = None) -> str:
    """Upload, and return the repository's address. It is made private; one that is there keeps what it is."""
    api = hub or HfApi()
    try:
        api.create_repo(sent.repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=sent.repo,
            folder_path=sent.folder,
            commit_message="A model tuned and measured by tunesmith",
            ignore_patterns=list(NOT_PUSHED),
        )
    except HFValidationError as error:
        raise InputError(f"--push {sent.repo}: {error}") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise RunError(
            f"{sent.repo} could not be uploaded ({type(error).__name__}: {first}). Check the network, the name and "
            f"that the token may write there. The export itself is whole in {sent.folder}."
        ) from error
    return f"https://huggingface.co/{sent.repo}"
