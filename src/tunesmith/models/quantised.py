"""A base whose linear layers are held in 4 or 8 bits under an adapter (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

Everything else of it (embeddings, head, norms) stays as it is. Codes are made of the values in the model's files, so
they depend on the files and the number of bits alone. The base itself, which a run compares with, answers with its own
weights: those are read from the files again, layer by layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from tunesmith.errors import PlanError
from tunesmith.models.adapters import layers_in, stacks_of
from tunesmith.models.blockwise import OwnWeights, Quantised, dequantise, num_weights, quantise, quantised
from tunesmith.models.kinds import has_classes, is_encoder, opener

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Those inside of the model's layers, by name: no embedding, and no head."""
    inside = {id(m) for stack in stacks_of(model) for m in layers_in(stack).modules()}
    found = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and id(m) in inside}
    if not found:
        raise PlanError(
            f"adapt.base_bits: {type(model).__name__} has no plain linear layer in its layers that could be held in "
            "fewer bits. Leave it out; --set precision=bfloat16 takes half of float32"
        )
    return found


def stored_weights(model: PreTrainedModel, folder: Path) -> OwnWeights:
    """Where in the folder the weights of those layers are. PlanError where transformers makes them of other tensors."""
    places: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    body = f"{model.base_model_prefix}."
    own = OwnWeights({})
    for layer, plain in linear_layers(model).items():
        names = [f"{layer}.weight", f"{layer.removeprefix(body)}.weight"]
        name = next((n for n in names if n in places), None)
        if name is not None:
            own.stored[layer] = (places[name], name)
        if name is None or not is_alike(own.read(layer), plain.weight):
            raise PlanError(
                f"adapt.base_bits wants the weights of each layer in the model's files as they are, and {layer} of "
                f"{type(model).__name__} is put together when it is loaded. Leave adapt.base_bits out"
            )
    return own


def is_alike(stored: Tensor, loaded: Tensor) -> bool:
    """By three rows: to look at all of them would bring the whole file into memory."""
    if stored.shape != loaded.shape:
        return False
    some = [0, len(stored) // 2, len(stored) - 1]
    return torch.equal(stored[some].to(loaded.dtype), loaded[some])


def opening_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """In which a model is opened that will be held in fewer bits: as it is stored, where that is narrower, so that no
    whole copy of it is made on the way. Not where a number that is in no file would be rounded too (the scale of
    Gemma's embeddings)."""
    kinds = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            kinds += [opened.get_slice(name).get_dtype() for name in list(opened.keys())]
    widest = max([DTYPES[kind] for kind in kinds if kind in DTYPES] or [dtype], key=lambda kind: kind.itemsize)
    narrower = min((widest, dtype), key=lambda kind: kind.itemsize)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        twin = opener(config).from_config(config, dtype=narrower)
    return dtype if any(buffer.dtype == narrower for buffer in twin.buffers()) else narrower


@torch.no_grad()
def hold(model: PreTrainedModel, folder: Path, bits: int, dtype: torch.dtype) -> OwnWeights:
    """Put codes in the place of each layer's weight; what else there is computes in `dtype`."""
    if has_classes(model) or is_encoder(model.config):
        raise PlanError(
            f"adapt.base_bits is for models that write, and {type(model).__name__} does not. Leave it out, or take a "
            "model that writes, with task.by: labels"
        )
    own, opened_as = stored_weights(model, folder), model.dtype
    for name in own.stored:
        plain: Any = model.get_submodule(name)
        codes, scales = quantise(own.read(name), bits)
        layer = Quantised(codes, scales, plain.weight.shape, dtype, plain.bias)
        layer.name, layer.own = name, own
        model.set_submodule(name, layer.train(plain.training))
    for parameter in model.parameters():
        if parameter.dtype == opened_as:  # what transformers keeps in another one stays so
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return own


@torch.no_grad()
def round_weights(model: PreTrainedModel, folder: Path, bits: int) -> None:
    """Plain weights become what their codes stand for, as a tuned model was measured on them."""
    own = stored_weights(model, folder)
    for name in own.stored:
        plain: Any = model.get_submodule(name)
        codes, scales = quantise(own.read(name), bits)
        plain.weight.data = dequantise(codes, scales, plain.weight.shape, plain.weight.dtype)


def held_words(model: nn.Module) -> str:
    """Of the plan: how much is held so, and what that takes."""
    layers = quantised(model).values()
    held = sum(layer.shape.numel() for layer in layers)
    return (
        f"{held / 1e6:.4g} of {num_weights(model) / 1e6:.4g} million weights, under the adapter, in "
        f"{sum(layer.num_bytes for layer in layers) / 2**20:.4g} MiB; 16 bits would take {held * 2 / 2**20:.4g}. The "
        "base that the result is compared with is not rounded: its weights are read from its files layer by layer"
    )
