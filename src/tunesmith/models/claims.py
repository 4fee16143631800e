"""Whether a model's config.json describes the weights that lie beside it, before memory is asked for by its word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from tunesmith.errors import ModelError
from tunesmith.models.kinds import opener

COUNTS = ("layer", "expert", "head", "block")  # of which a model makes one part each
MAX_PARTS = 4096
SLACK = 3  # what is stored once and used twice (tied embeddings, shared layers)
PACKED_SLACK = 24  # 4-bit weights lie in bytes or larger words


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder. Raises ModelError where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not the JSON that it should be ({type(error).__name__}): copy it again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}; wanted an object: copy it again")
    return found


def shapes_in(file: Path) -> Iterator[tuple[int, ...]]:
    """Of each tensor; only the header is read. Raises ModelError where it is not whole."""
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                yield tuple(opened.get_slice(key).get_shape())
    except SafetensorError as error:
        raise ModelError(
            f"the weights in {file.parent} cannot be loaded: {file.name} is not a whole safetensors file ({error}); "
            "copy the folder again from where the model is from"
        ) from error


def weights_in(file: Path) -> int:
    """How many weights; only the header is read."""
    return sum(map(prod, shapes_in(file)))


def check_claims(name: str, folder: Path, config: PreTrainedConfig) -> None:
    """Raises ModelError where config.json speaks of another model than the files hold: of parts without end, or of
    more weights than are there."""
    shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in shapes_in(file)]
    if not shapes:
        return  # no weights that could be loaded, which is said where they are looked for
    text = config.get_text_config()
    for key, value in text.to_dict().items():
        is_count = key.startswith(("num_", "n_")) or key.endswith("layers")
        if is_count and any(word in key for word in COUNTS) and isinstance(value, int):
            if value > max(MAX_PARTS, len(shapes)):
                raise lie(name, folder, f"{key} is {value}, and the files hold {len(shapes)} tensors")
            if key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") and value < 1:
                raise lie(name, folder, f"{key} is {value}")
    there = sum(map(prod, shapes))
    with torch.device("meta"):
        empty = opener(config).from_config(config, trust_remote_code=False)
    claimed = sum(weight.numel() for weight in empty.parameters())
    slack = PACKED_SLACK if hasattr(config, "quantization_config") else SLACK
    if claimed > slack * there + 2**20:
        raise lie(name, folder, f"it describes {claimed:.4g} weights, and the files hold {there:.4g}")


def lie(name: str, folder: Path, what: str) -> ModelError:
    return ModelError(
        f"model {name}: the weights in {folder} are not those of its config.json: {what}. Copy the folder again from "
        "where the model is from"
    )
