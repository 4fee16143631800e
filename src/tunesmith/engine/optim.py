"""One step of AdamW on float32 masters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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


def build(
    masters: dict[str, Tensor], settings: AdamW, factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.AdamW:
    """The optimizer over the masters, in the order of their names; its rate is set before each step, and times the
    tensor's factor where it has one."""
    members: dict[tuple[bool, float], list[Tensor]] = {}
    for is_matrix in (True, False):
        for name in sorted(masters):
            if (masters[name].dim() >= 2) == is_matrix:
                members.setdefault((is_matrix, factors.get(name, 1.0)), []).append(masters[name])
    groups = [
        {"params": params, "weight_decay": settings.weight_decay if is_matrix else 0.0, "factor": factor}
        for (is_matrix, factor), params in members.items()
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True)


def step(optimizer: torch.optim.AdamW, lr: float) -> None:
    """One step. All memory it needs is taken before the first parameter moves, so that it happens whole or not at
    all."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
        for p in group["params"]:
            if p.grad is not None and not optimizer.state.get(p):
                optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }
    optimizer.step()


def global_norm(gradients: dict[str, Tensor]) -> Tensor:
    """[] L2 norm over all tensors."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for _, g in sorted(gradients.items())]))
