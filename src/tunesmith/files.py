"""Files that are whole or absent, and the digests that name them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import DataError


def cache_dir() -> Path:
    """Where downloaded and converted models live: $TUNESMITH_CACHE, or tunesmith under the user's cache folder."""
    named = os.environ.get("TUNESMITH_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunesmith"


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over name, type, shape and bytes of the tensors, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(write: Callable[[Path], None], final: Path) -> Path:
    """Let `write(folder)` fill a folder that appears whole under `final`, or not at all. An old one is replaced."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial_", dir=final.parent))
    try:
        write(partial)
        partial.chmod(0o755)
        files = sorted(p for p in partial.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(partial)): sha256_file(p) for p in files}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
        for path in [*files, partial / "manifest.json", partial]:
            sync(path)
        if final.exists():
            stale = Path(tempfile.mkdtemp(prefix=".stale_", dir=final.parent))
            os.replace(final, stale / final.name)
            os.replace(partial, final)
            shutil.rmtree(stale)
        else:
            os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(final.parent)
    return final


def broken_files(folder: Path) -> list[str]:
    """Names of the files that are missing or differ from the folder's manifest; ["manifest.json"] where it has none."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return ["manifest.json"]
    try:
        wanted = json.loads(manifest.read_text())
    except ValueError:
        return ["manifest.json"]
    return [n for n, d in wanted.items() if not (folder / n).is_file() or sha256_file(folder / n) != d]


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises DataError where the file was cut or edited."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of bytes that are no UTF-8
        raise DataError(
            f"{path} is not the JSON that tunesmith wrote ({error}): it was cut or edited. Restore it from a copy, or "
            "start a new run in another folder"
        ) from error


def write_json(path: Path, facts: Any) -> None:
    """Write JSON that appears whole under `path` or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text that appears whole under `path` or not at all."""
    partial = path.with_name(f".partial_{path.name}_{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
