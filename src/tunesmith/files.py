"""Files that are whole or absent, and the digests that name them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tunesmith.errors import DataError
from tunesmith.places import cache_dir as cache_dir

MANIFEST = "manifest.json"
PARTIAL, STALE = ".partial_", ".stale_"  # how names begin of what is being written, and of what is being replaced
PIECE, CACHED = 2**24, 2**26  # bytes that are written at once, and that the system's page cache may hold of a file
DTYPES = {  # in the order in which a safetensors file has them
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
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
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(write: Callable[[Path], object], final: Path) -> Path:
    """Let `write(folder)` fill a folder that appears whole under `final`, or not at all. An old one is replaced. It may
    give {name: SHA-256} of files that it hashed while it wrote them.

    Everything is on the disk before the name is, so that a machine that loses power leaves the old state or the new one
    (Pillai et al. 2014, "All file systems are not created equal").
    """
    if not final.parent.is_dir():
        final.parent.mkdir(parents=True)
        sync(final.parent.parent)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
    try:
        hashed = found if isinstance(found := write(partial), Mapping) else {}
        partial.chmod(0o755)
        inside = sorted(partial.rglob("*"))
        files = [p for p in inside if p.is_file()]
        names = [p.relative_to(partial).as_posix() for p in files]
        manifest = {name: hashed.get(name) or sha256_file(p) for name, p in zip(names, files)}
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


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file, byte for byte as that library does; gives its SHA-256. What the system refused is
    raised as the OSError that it is, with the path.

    The library leaves the whole file in the page cache. Where that has to be found first, in containers and virtual
    machines, this was seen to take four times as long as the disk; and the file was read again to be hashed.
    """
    ordered = sorted(tensors.items(), key=lambda item: (list(DTYPES).index(item[1].dtype), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    said += b" " * (-len(said) % 8)
    digest, unsynced = hashlib.sha256(), 0
    try:
        with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
            for piece in pieces_of([len(said).to_bytes(8, "little") + said], (bytes_of(t) for _, t in ordered)):
                hashed = beside.submit(digest.update, piece)
                unsynced += file.write(piece)
                hashed.result()
                if unsynced >= CACHED:
                    give_back_pages(file)
                    unsynced = 0
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return digest.hexdigest()


def pieces_of(*parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for part in parts:
        for data in part:
            yield from (data[first : first + PIECE] for first in range(0, len(data), PIECE))


def give_back_pages(file: BinaryIO) -> None:
    """What was written so far is brought to the disk, and leaves the page cache (Linux)."""
    file.flush()
    if sys.platform == "linux":
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
