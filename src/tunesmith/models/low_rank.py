"""LoRA's product in one piece: y = x W^T + b + scale (x A^T) B^T, W and b frozen.

peft makes three tensors of the output's size in the forward, and autograd as many in the backward. Here what LoRA adds
is added within the products, to the output and to the gradient of the input, and nothing but x and x A^T is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Product(torch.autograd.Function):
    """x [N, in], weight [out, in], bias [out] or None, a [rank, in], b [out, rank] -> [N, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x @ a.t()
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return F.linear(x, weight, bias).addmm_(low, b.t(), alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, low, weight, a, b = ctx.saved_tensors
        d_low = (d_out @ b).mul_(ctx.scale)
        d_x = (d_out @ weight).addmm_(d_low, a) if ctx.needs_input_grad[0] else None
        d_b = (low.t() @ d_out).t().mul(ctx.scale)
        return d_x, None, None, d_low.t() @ x, d_b, None


class OnePiece(Linear):
    """peft's LoRA layer, whose forward is `Product` wherever it is plain LoRA on a frozen linear layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        key = self.plain_adapter(x) if torch.is_grad_enabled() else None  # what is measured is what peft will serve
        if key is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base, a, b = self.base_layer, self.lora_A[key].weight, self.lora_B[key].weight
        y = Product.apply(x.reshape(-1, x.shape[-1]), base.weight, base.bias, a, b, self.scaling[key])
        return y.view(*x.shape[:-1], y.shape[-1])

    def plain_adapter(self, x: Tensor) -> str | None:
        """The one adapter that is active, where all that it does is in the formula."""
        keys = [key for key in self.active_adapters if key in self.lora_A]
        base = self.base_layer
        if len(keys) != 1 or type(base) is not nn.Linear or self.disable_adapters or self.merged:
            return None
        [key] = keys
        drop = self.lora_dropout[key]
        drops = self.training and not isinstance(drop, nn.Identity)
        is_frozen = not (base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad))
        is_plain = is_frozen and not drops and key not in self.lora_variant and not self.lora_bias[key]
        return key if is_plain and x.dtype == base.weight.dtype == self.lora_A[key].weight.dtype else None


def in_one_piece(model: nn.Module) -> None:
    """Give every LoRA layer of peft's that stands on a linear layer the forward in one piece."""
    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = OnePiece
