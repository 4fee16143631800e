"""The seal of a finished run: a SHA-256 of every file in its folder, by which a changed byte is found later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.deaths import WORKING
from tunesmith.errors import DataError
from tunesmith.files import sha256_file, write_text
from tunesmith.folder import LOCK, LOGS

SEAL = "seal.json"
UNSEALED = (SEAL, LOCK, WORKING)  # the last two are of the process that fills the folder


def files_in(folder: Path) -> dict[str, Path]:
    """Name -> path of every regular file, links left out: what they lead to is not the run's. Logs are left out too:
    other processes may still write to theirs."""
    found = {}
    for at, _, names in os.walk(folder):  # does not follow links to folders
        for name in names:
            path = Path(at) / name
            if path.is_file() and not path.is_symlink():
                found[path.relative_to(folder).as_posix()] = path
    return {name: found[name] for name in sorted(found) if name not in UNSEALED and not name.startswith(f"{LOGS}/")}


def seal(folder: Path) -> None:
    written(folder, {"files": {name: sha256_file(p) for name, p in files_in(folder).items()}})


def written(folder: Path, facts: dict[str, Any]) -> None:
    write_text(folder / SEAL, plain(facts))


def plain(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False)


def read_seal(folder: Path) -> dict[str, Any] | None:
    """None where the run was never ended. Raises DataError where one byte of the seal is not as it was written."""
    path = folder / SEAL
    if not path.is_file():
        return None
    raw = path.read_bytes()
    try:
        found = json.loads(raw)
        is_whole = plain(found).encode() == raw and all(isinstance(d, str) for d in found["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DataError(f"{path} is not as tunesmith wrote it: it was changed or cut")
    return dict(found)


def seal_again(folder: Path, names: Iterable[str]) -> None:
    """After a command wrote these files or folders of a finished run; all others keep the digest that they had."""
    facts = read_seal(folder)
    if facts is None:
        return
    heads = tuple(names)
    mine = {n: p for n, p in files_in(folder).items() if any(n == h or n.startswith(f"{h}/") for h in heads)}
    kept = {n: d for n, d in facts["files"].items() if not any(n == h or n.startswith(f"{h}/") for h in heads)}
    written(folder, {**facts, "files": kept | {name: sha256_file(path) for name, path in mine.items()}})


def changed(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """(other bytes than when the run ended, gone since then, not there then). DataError where there is no seal."""
    facts = read_seal(folder)
    if facts is None:
        raise DataError(f"{folder} has no {SEAL}: the run was not ended, or by an older tunesmith")
    there = files_in(folder)
    other = [n for n, d in facts["files"].items() if n in there and sha256_file(there[n]) != d]
    return other, [n for n in facts["files"] if n not in there], [n for n in there if n not in facts["files"]]
