"""Frozen weights of linear layers in 4 or 8 bits: what is stored, what it stands for, and the product with it.

The flattened weight is cut into blocks of 64 values, each with the largest magnitude in it. 4 bits are NF4 (Dettmers
et al. 2023, arXiv:2305.14314, section 3 and appendix E): of a value over that magnitude the nearest of 16 numbers,
quantiles of a normal distribution. Bytes are laid as those of bitsandbytes: of two values the
first has the upper half. 8 bits are whole numbers from -127 to 127. What "double quantisation" saves of the
magnitudes, 0.37 bits a weight, is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 64  # values that share one magnitude
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes of each block, uint8 [blocks, 32] for 4 bits and int8 [blocks, 64] for 8, and what a block is multiplied
    with, float32 [blocks]. The last block is filled up with zeros."""
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(1)
    blocks = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    if bits == 8:
        return (blocks * 127).round_().to(torch.int8), largest / 127
    numbers = torch.tensor(NF4, device=weight.device)
    nearest = torch.bucketize(blocks, (numbers[1:] + numbers[:-1]) / 2, out_int32=True).to(torch.uint8)
    return nearest[:, ::2] << 4 | nearest[:, 1::2], largest


def dequantise(codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What the codes stand for: computed in float32, and rounded to `dtype` once."""
    if codes.dtype == torch.int8:
        blocks = codes.float()
    else:
        numbers = torch.tensor(NF4, device=codes.device)
        pairs = torch.cartesian_prod(numbers, numbers).view(torch.float64).flatten()  # the two values of a byte as one
        blocks = pairs.index_select(0, codes.flatten().int()).view(torch.float32).view(-1, BLOCK)
    blocks *= scales[:, None]
    return blocks.flatten()[: shape.numel()].view(shape).to(dtype)


@dataclass(slots=True)
class OwnWeights:
    """The weights of a base as they are, in its files. They are read layer by layer where the base itself is asked;
    whoever is tuned stands on the codes."""

    stored: dict[str, tuple[Path, str]]  # name of a layer -> file and name of the tensor
    is_asked: bool = True
    is_under_adapters: bool = False  # also what an adapter asks of a layer (DoRA: its length), as in plain peft

    def read(self, layer: str) -> Tensor:
        path, name = self.stored[layer]
        with safe_open(path, framework="pt") as opened:
            found: Tensor = opened.get_tensor(name)
        return found


class Quantised(nn.Linear):
    """A linear layer whose frozen weight is there as codes. peft takes it for the layer that it is."""

    codes: Tensor
    scales: Tensor

    def __init__(
        self, codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype, bias: nn.Parameter | None
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.out_features, self.in_features = shape
        self.shape, self.dtype = shape, dtype
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_parameter("bias", bias)
        self.name, self.own = "", OwnWeights({}, is_asked=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Made anew each time, [out, in]: to change it changes nothing."""
        if self.own.is_under_adapters:
            return self.own.read(self.name).to(self.codes.device, self.dtype)
        return dequantise(self.codes, self.scales, self.shape, self.dtype)

    @property
    def num_bytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def forward(self, input: Tensor) -> Tensor:
        if self.own.is_asked:
            return F.linear(input, self.own.read(self.name).to(input.device, self.dtype), self.bias)
        found: Tensor = Product.apply(input, self)
        return found


class Product(torch.autograd.Function):
    """x W^T + b. W is whole for as long as the product takes, and made again in the backward: autograd itself would
    keep it until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantised) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None]:
        return d_out @ ctx.layer.weight, None


def quantised(model: nn.Module) -> dict[str, Quantised]:
    """By the names that the layers have without adapters around them."""
    return {n.replace(".base_layer", ""): m for n, m in model.named_modules() if isinstance(m, Quantised)}


def bits_of(model: nn.Module) -> int | None:
    """In how many bits a model's layers are held; None where they are whole."""
    found = next((m for m in model.modules() if isinstance(m, Quantised)), None)
    return None if found is None else 8 if found.codes.dtype == torch.int8 else 4


def num_weights(model: nn.Module) -> int:
    """However they are held."""
    return sum(p.numel() for p in model.parameters()) + sum(m.shape.numel() for m in quantised(model).values())


def num_bytes(model: nn.Module) -> int:
    """That its weights take as they are held."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def hold_alike(twin: nn.Module, model: nn.Module) -> None:
    """A twin without numbers holds its layers as the model does."""
    for name, layer in quantised(model).items():
        codes, scales = (torch.empty_like(t, device="meta") for t in (layer.codes, layer.scales))
        bias = twin.get_submodule(name).bias
        twin.set_submodule(name, Quantised(codes, scales, layer.shape, layer.dtype, bias))  # type: ignore[arg-type]
