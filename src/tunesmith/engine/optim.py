"""One step of AdamW on float32 masters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdamW:
    """Loshchilov and Hutter 2019. Decay acts on matrices only, never on norms and biases."""

    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.999  # memory of the gradient's square
    eps: float = 1e-8  # keeps the division by the square's root finite
    weight_decay: float = 0.0  # pull of matrices towards 0; 0.01 to 0.1 when all weights train
    clip_norm: float = 1.0  # of the gradient of a whole update, over all that trains; 0 = not used


def build(masters: dict[str, Tensor], settings: AdamW) -> torch.optim.AdamW:
    """The optimizer over the masters, in the order of their names; its rate is set before each step."""
    matrices = [masters[n] for n in sorted(masters) if masters[n].dim() >= 2]
    others = [masters[n] for n in sorted(masters) if masters[n].dim() < 2]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((matrices, settings.weight_decay), (others, 0.0))
        if params
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)


def global_norm(gradients: dict[str, Tensor]) -> Tensor:
    """[] L2 norm over all tensors."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in sorted(gradients.items())]))
