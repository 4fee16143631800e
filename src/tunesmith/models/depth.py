"""How deep a tensor stands in the model: for rates by depth, and for unfreezing from the top."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from tunesmith.models.adapters import layers_in, stacks_of


def depths(model: PreTrainedModel, names: Iterable[str]) -> dict[str, int]:
    """0: embeddings; 1 to n: layers, bottom first; n + 1: what stands after them (last norm, head, new heads). The
    layers of an encoder stand below those of its decoder, and what stands after them is with the last of them."""
    place = {id(module): f"{name}." for name, module in model.named_modules()}
    embeddings = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    stacks = [(place[id(s)], place[id(layers_in(s))], len(layers_in(s))) for s in stacks_of(model)]
    num_layers = sum(num for *_, num in stacks)
    found = {}
    for name in names:
        found[name] = 0 if name.startswith(embeddings) else num_layers + 1
        below = 0
        for stack, layers, num in stacks:
            if name.startswith(layers):
                found[name] = below + 1 + int(name.removeprefix(layers).split(".")[0])
            elif below + num < num_layers and found[name] and name.startswith(stack):
                found[name] = below + num
            below += num
    return found


def factors(depth: dict[str, int], by: float) -> dict[str, float]:
    """Of the rate: 1 at the top, and that of the layer above divided by `by` in each layer below (Howard and Ruder
    2018, section 3.2). Depths at which nothing trains are not counted."""
    below = {d: n for n, d in enumerate(sorted(set(depth.values()), reverse=True))}
    return {name: by ** -below[d] for name, d in depth.items()}


def top(depth: dict[str, int], num_groups: int, num_wanted: int) -> list[str]:
    """Names in the top `num_wanted` of `num_groups` runs of depths, as equal as they can be, the top ones smaller."""
    levels = sorted(set(depth.values()), reverse=True)
    count = len(levels) * min(num_wanted, num_groups) // num_groups
    kept = set(levels[: max(1, count)])
    return [name for name, d in depth.items() if d in kept]
