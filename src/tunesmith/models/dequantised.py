"""A GGUF file as a model: read by transformers, dequantised to float32, and converted once into the cache by digest."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, LlamaFileType
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import ModelError, is_memory
from tunesmith.files import broken_files, cache_dir, publish_folder, sha256_file
from tunesmith.models.bars import no_bars
from tunesmith.models.gguf_bounds import check_bounds

FACTS = "tunesmith_source.json"
HUB = "https://huggingface.co/"
SPARE_BYTES = 2**30  # of the disk that a conversion leaves free


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself; "" where it says nothing."""

    base_model: str
    licence: str
    quant: str  # such as MOSTLY_Q4_K_M
    num_weights: int
    num_files: int  # that the model was split into


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def header(path: Path) -> Header:
    """The metadata only; no tensor is read. Raises ModelError where it is no GGUF file, or is cut off."""
    check_bounds(path)
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"model {path}: this is no whole GGUF file ({first_line(error)}): copy it again from where it is from"
        ) from error

    def said(*names: str) -> Any:
        fields = (reader.get_field(name) for name in names)
        return next((field.contents() for field in fields if field is not None), "")

    kind, num_files = said("general.file_type"), said("split.count")
    known = {int(t): t.name for t in LlamaFileType}
    layers = [said(name) for name in reader.fields if name.endswith(".block_count")]
    if any(not isinstance(n, int) or not 0 < n <= len(reader.tensors) for n in layers):
        raise ModelError(
            f"model {path}: this is no whole GGUF file (it names {layers[0]} layers, and holds {len(reader.tensors)} "
            "tensors): copy it again from where it is from"
        )
    return Header(
        base_model=str(said("general.base_model.0.repo_url", "general.base_model.0.name", "general.name")).removeprefix(
            HUB
        ),
        licence=str(said("general.license")),
        quant=known.get(kind, str(kind)) if isinstance(kind, int) else str(kind),
        num_weights=sum(prod(int(n) for n in tensor.shape) for tensor in reader.tensors),
        num_files=num_files if isinstance(num_files, int) else 1,
    )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(":.")


def converted(path: Path) -> Path:
    """The transformers folder of a GGUF file, converted at its first use; `FACTS` in it says where it is from."""
    if not path.is_file():
        beside = ", ".join(sorted(p.name for p in path.parent.glob("*.gguf"))[:5]) if path.parent.is_dir() else ""
        there = f" There is: {beside}." if beside else ""
        raise ModelError(f"model {path}: there is no such file.{there}")
    digest = sha256_file(path)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:60]
    folder = cache_dir() / "models" / f"{stem}-{digest[:12]}"
    if broken_files(folder):
        found = header(path)
        check(path, found, folder)
        note = f"the weights are those of {path.name}, dequantised" + (f" from {found.quant}" if found.quant else "")
        facts = {
            "name": path.name, "gguf_sha256": digest, "base_model": found.base_model or path.stem,
            "licence": found.licence or "see where the file is from", "note": note,
        }  # fmt: skip
        publish_folder(lambda out: dequantise(path, out, facts), folder)
    return folder


def check(path: Path, found: Header, folder: Path) -> None:
    if found.num_files > 1:
        raise ModelError(
            f"model {path}: this is one of {found.num_files} files of a split model, which transformers does not read "
            "together: merge them with llama.cpp's llama-gguf-split --merge"
        )
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free, wanted = shutil.disk_usage(there).free, 4 * found.num_weights + SPARE_BYTES
    if free < wanted:
        raise ModelError(
            f"model {path}: it is converted once to float32, which takes {wanted / 2**30:.1f} GiB under {there}, and "
            f"{free / 2**30:.1f} GiB are free: make room, or set TUNESMITH_CACHE to another disk"
        )


def dequantise(gguf: Path, out: Path, facts: dict[str, Any]) -> None:
    """GGUF to a transformers folder in float32; nothing is rounded again. `facts` are kept beside it."""
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # its readers have a type of error for nearly everything
        if is_memory(error):
            raise
        raise ModelError(
            f"model {gguf}: transformers cannot read this GGUF file: {first_line(error)}. It reads the architectures "
            "and types that its documentation lists under GGUF; take the original model where this one is not among "
            "them"
        ) from error
    read, found = loaded
    lacks = sorted(found["missing_keys"])
    if lacks:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"model {gguf}: {len(lacks)} tensors that transformers wants are not in the file, {lacks[0]} first; take "
            "the original model"
        )
    # Into a fresh model of the plain configuration: transformers refuses to save one that remembers its GGUF.
    settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    with no_bars():
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / FACTS).write_text(json.dumps(facts))
