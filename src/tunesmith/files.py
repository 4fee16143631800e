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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.errors import DataError, of_the_system
from tunesmith.places import cache_dir as cache_dir

MANIFEST = "manifest.json"
PARTIAL, STALE = ".partial_", ".stale_"  # how names begin of what is being written, and of what is being replaced
BASE_CONFIG = "base_config.json"  # beside an adapter for a longer context: what its base has to be opened with


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def code_digest() -> str:
    """Of this program's own source: two runs with one version may come from two states of it."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


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
    """Let `write(folder)` fill a folder that appears whole under `final`, or not at all. An old one is replaced.

    Everything is on the disk before the name is, so that a machine that loses power leaves the old state or the new one
    (Pillai et al. 2014, "All file systems are not created equal").
    """
    if not final.parent.is_dir():
        final.parent.mkdir(parents=True)
        sync(final.parent.parent)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
    try:
        write(partial)
        partial.chmod(0o755)
        inside = sorted(partial.rglob("*"))
        files = [p for p in inside if p.is_file()]
        manifest = {p.relative_to(partial).as_posix(): sha256_file(p) for p in files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        folders = [p for p in reversed(inside) if p.is_dir()]
        for path in [*files, partial / MANIFEST, *folders, partial]:
            sync(path)
        put(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(final.parent)
    return final


def put(partial: Path, final: Path) -> None:
    """Rename. What was there goes aside first, and comes back where the new one cannot be put."""
    if not final.exists():
        os.replace(partial, final)
        return
    stale = Path(tempfile.mkdtemp(prefix=STALE, dir=final.parent))
    os.replace(final, stale / final.name)
    try:
        os.replace(partial, final)
    except BaseException:
        os.replace(stale / final.name, final)
        stale.rmdir()
        raise
    shutil.rmtree(stale)


def sweep(folder: Path) -> None:
    """Clear what a process that was killed in `publish_folder` left here. Nobody else may be writing to the folder."""
    for stale in folder.glob(f"{STALE}*"):
        for old in stale.iterdir():
            if not (folder / old.name).exists():  # it was killed between the two renames
                os.replace(old, folder / old.name)
        shutil.rmtree(stale)
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def broken_files(folder: Path) -> list[str]:
    """Names of the files that are missing or differ from the folder's manifest; ["manifest.json"] where it has none."""
    wanted = read_manifest(folder)
    if wanted is None:
        return [MANIFEST]
    return [n for n, d in wanted.items() if not (folder / n).is_file() or sha256_file(folder / n) != d]


def read_manifest(folder: Path) -> dict[str, str] | None:
    """File name -> SHA-256; None where there is none that can be read."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, RecursionError):
        return None
    return wanted if isinstance(wanted, dict) and all(isinstance(d, str) for d in wanted.values()) else None


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. What the system refused is raised as the OSError that it is."""
    try:
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata)
    except SafetensorError as error:
        refused = of_the_system(error)
        if refused is None:
            raise
        raise OSError(refused.errno, refused.strerror, str(path)) from error


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
    partial = path.with_name(f"{PARTIAL}{path.name}_{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)
