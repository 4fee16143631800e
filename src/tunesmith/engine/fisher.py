"""How much each weight of the base matters for what the base says: the diagonal of its Fisher information, per token.

F_i = mean over tokens of E[(d log p(y | before) / d w_i)^2], y drawn from the base itself: with y from the data
it would be another quantity (Kunstner et al. 2019, arXiv:1905.12558). One backward for each record does all of its
tokens: their draws are independent, so the mixed terms of the square have mean 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from tunesmith.data.pack import forest
from tunesmith.models.adapters import Adapt, keyed_generator, targets_of, trained_weights
from tunesmith.models.forward import ForwardOutput, output
from tunesmith.models.load import Base
from tunesmith.types import Record


def fisher(base: Base, adapt: Adapt, records: Sequence[Record], seed: int) -> dict[str, Tensor]:
    """Of each weight that trains, or that LoRA adds to ([out, in] then), by its name. No adapter may be in the base.

    `records`: what is learned in them is what is looked at. The draws depend on seed and record alone.
    """
    weights = watched(base, adapt)
    found = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in weights.items()}
    num = 0
    hooks = []
    for name, weight in weights.items():
        weight.requires_grad_(True)
        hooks.append(weight.register_post_accumulate_grad_hook(adding(found[name])))
    try:
        for record in records:
            batch = forest([record], share_prefix=False).to(base.model.device)
            out = output(base.model, base.head, batch, base.layout)
            said = replace(out, target=drawn(out, keyed_generator(seed, "fisher", record.example_id)))
            said.logp().sum().backward()
            num += len(said.target)
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights.values():
            weight.requires_grad_(False)
    as_in_out = {f"{n}.weight" for n, m in base.model.named_modules() if type(m).__name__ == "Conv1D"}  # GPT-2
    turned = as_in_out if adapt.method == "lora" else set()
    return {n: (f.T if n in turned else f) / max(1, num) for n, f in found.items()}


def adding(total: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds the square of a gradient and lets go of it, so that one weight's is there at a time."""

    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        total.addcmul_(weight.grad.to(total), weight.grad.to(total))
        weight.grad = None

    return add


def watched(base: Base, adapt: Adapt) -> dict[str, nn.Parameter]:
    """The base's own weights that the tenant changes."""
    if adapt.method != "lora":
        return dict(trained_weights(base.model, adapt))
    ends = tuple(f".{target}.weight" for target in targets_of(adapt, base.model))
    return {n: p for n, p in base.model.named_parameters() if f".{n}".endswith(ends) and p.dim() == 2}


@torch.no_grad()
def drawn(out: ForwardOutput, generator: torch.Generator) -> Tensor:
    """[L] tokens, each from the model's own distribution at its place."""
    uniform_L = torch.rand(len(out.target), generator=generator).to(out.hidden.device)

    def pick(logits: Tensor, uniform: Tensor) -> Tensor:
        below = logits.softmax(-1).cumsum(-1) < uniform[:, None]
        return below.sum(-1).clamp(max=logits.shape[-1] - 1)

    return out.over_vocab(pick, uniform_L)
