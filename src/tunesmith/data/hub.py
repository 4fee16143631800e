"""The seam to data sets on the hub: the only place of data/ that reaches a network. Tests put a folder in its place.

Files are taken from the hub's own Parquet copy (refs/convert/parquet: CONFIG/SPLIT/0000.parquet), else as the data set
was uploaded. With `?rows=N` the first N rows of each split are streamed instead, and kept in tunesmith's own cache.
No code of a data set is run. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunesmith.data.rows import format_of, of_one_kind
from tunesmith.data.streamed import first_rows
from tunesmith.errors import DataError
from tunesmith.files import sha256_text
from tunesmith.offline import forbidden_by
from tunesmith.places import cache_dir

TIMEOUT_S = 20.0
CONVERTED, UPLOADED = "refs/convert/parquet", "main"
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.+-]+)(?:/([\w.+-]+))?)?(?:\?rows=([1-9]\d*))?")
LONG = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation"}


class Unreachable(Exception):
    """The hub cannot be asked, and nothing of the data set is in its cache."""


class Hub(Protocol):
    def files(self, name: str, revision: str) -> list[str]:
        """Paths in the data set; [] where it has no such revision. Raises Unreachable."""
        ...

    def download(self, name: str, revision: str, files: Sequence[str]) -> Path:
        """A folder that holds these files. Raises Unreachable."""
        ...

    def commit(self, name: str, revision: str) -> str:
        """Changes when the data set does. Raises Unreachable."""
        ...

    def opened(self, name: str, commit: str, file: str) -> AbstractContextManager[IO[bytes]]:
        """A file's bytes, fetched where they are read. Raises Unreachable."""
        ...


class RealHub:
    """huggingface_hub, with its cache where there is no network."""

    def files(self, name: str, revision: str) -> list[str]:
        try:
            # dataset_info asks once; the listing calls ask for half a minute where there is no network
            info = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT_S)
            return [file.rfilename for file in info.siblings or []]
        except RevisionNotFoundError:
            return []
        except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
            raise DataError(
                f"{name}: there is no such file or folder, and the hub has no such data set, or it needs a token (set "
                f"HF_TOKEN; {type(error).__name__})."
            ) from error
        except (HTTPError, OSError) as error:  # HF_HUB_OFFLINE is an OSError too
            return self._cached(name, revision, error)

    def _cached(self, name: str, revision: str, why: Exception) -> list[str]:
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True))
        except OSError:
            raise Unreachable(type(why).__name__) from why
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def download(self, name: str, revision: str, files: Sequence[str]) -> Path:
        try:
            return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(files)))
        except (HTTPError, OSError) as error:
            raise Unreachable(type(error).__name__) from error

    def commit(self, name: str, revision: str) -> str:
        try:
            return str(HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT_S).sha)
        except (HTTPError, OSError) as error:
            raise Unreachable(type(error).__name__) from error

    @contextmanager
    def opened(self, name: str, commit: str, file: str) -> Iterator[IO[bytes]]:
        try:
            # without fsspec's own cache: several columns are read in turn, and each would drop the others' piece
            with HfFileSystem().open(f"datasets/{name}/{file}", "rb", revision=commit, cache_type="none") as source:
                yield source
        except (HTTPError, OSError) as error:
            raise Unreachable(type(error).__name__) from error


def is_hub_name(text: str) -> bool:
    """Whether it reads as owner/name, owner/name:config or owner/name:config/split (and ?rows=N) rather than as a path
    here."""
    match = NAME.fullmatch(text)
    return match is not None and format_of(Path(match[1])) is None and not Path(text.split("/")[0]).exists()


def fetch(text: str, hub: Hub | None = None) -> dict[str, list[Path]]:
    """Split -> files on this machine, of the one configuration and, where it was named, the one split."""
    match = NAME.fullmatch(text)
    assert match is not None, text
    name, config, split, rows = match.groups()
    hub = hub or RealHub()
    kept = cache_dir() / "hub" / name.replace("/", "--") / sha256_text(text)[:8]  # a folder a commit
    try:
        for revision in (CONVERTED, UPLOADED):
            configs = _configs(hub.files(name, revision), revision)
            if configs:
                if rows is not None:
                    whole = {name: _without_partial(splits) for name, splits in configs.items()}
                    files = _chosen(text, whole, config, split)
                    commit = hub.commit(name, revision)
                    opened = partial(hub.opened, name, commit)
                    return first_rows(files, int(rows), kept / commit[:12], opened)
                files = _chosen(text, configs, config, split)
                folder = hub.download(name, revision, [file for part in files.values() for file in part])
                return {part: [folder / file for file in names] for part, names in files.items()}
    except Unreachable as error:
        if rows is not None and (found := _streamed_before(kept)):
            return found
        switch = forbidden_by()
        if switch is not None:
            raise DataError(
                f"{name}: there is no such file or folder here, and {switch} is set, so the hub is not asked for a "
                "data set of that name: unset it, or bring the files here and name them."
            ) from error
        raise DataError(
            f"{name}: there is no such file or folder here, and the hub could not be reached for a data set of that "
            f"name ({error}). Check the name and the network, or bring the files here and name them."
        ) from error
    raise DataError(
        f"{name}: the hub's data set holds no file that can be read (Parquet, JSON, JSONL, CSV, plain text)."
    )


def _streamed_before(kept: Path) -> dict[str, list[Path]]:
    """What is here of a stream, of the newest commit."""
    folders = sorted(kept.glob("[!.]*/"), key=lambda folder: folder.stat().st_mtime)  # none that was never finished
    files = sorted(folders[-1].glob("*.first_*")) if folders else []
    return {file.name.partition(".first_")[0]: [file] for file in files}


def _without_partial(splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """Of a large split the hub's copy holds the first part, and no more is asked for."""
    return {part.removeprefix("partial-"): files for part, files in splits.items()}


def _configs(files: Sequence[str], revision: str) -> dict[str, dict[str, list[str]]]:
    """Configuration -> split -> files. In the Parquet copy folders name both; else the files' own names do."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in map(str, of_one_kind([Path(f) for f in sorted(files)])):
        path = PurePosixPath(file)
        if any(part.startswith(".") for part in path.parts):
            continue
        if revision == CONVERTED:
            if len(path.parts) != 3:
                continue
            config, split = path.parts[0], path.parts[1]
        else:
            folders = [part for part in path.parts[:-1] if part != "data"]
            word = re.match(r"[a-z]*", path.name.lower())
            config, split = "/".join(folders) or "default", word.group() if word else ""
            split = split if split in ("train", "validation", "test", *LONG) else "train"
            split = LONG.get(split, split)
        found.setdefault(config, {}).setdefault(split, []).append(file)
    return found


def _chosen(
    text: str, configs: dict[str, dict[str, list[str]]], config: str | None, split: str | None
) -> dict[str, list[str]]:
    usual = next(iter(configs)) if len(configs) == 1 else "default"
    if config not in configs and split is None and config in configs.get(usual, {}):
        config, split = None, config  # owner/name:test
    if (config or usual) not in configs:
        raise DataError(
            f"{text}: the data set's configurations are {', '.join(sorted(configs)[:20])}. Name one: "
            f"{re.split('[:?]', text)[0]}:{sorted(configs)[0]}."
        )
    splits = configs[config or usual]
    if split is not None and split not in splits:
        raise DataError(f"{text}: the splits of {config or usual} are {', '.join(splits)}. Name one of these.")
    chosen = splits if split is None else {split: splits[split]}
    if any(part.startswith("partial-") for part in chosen):
        raise DataError(
            f"{text}: is so large that the hub's Parquet copy holds only a part of it. Take its first rows, as "
            f"'{text}?rows=100000' does, or bring the files that you want here, and name them."
        )
    return chosen
