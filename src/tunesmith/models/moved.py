"""Which layers moved: the size of what tuning added to each, against the weights that it was added to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.models.adapters import Slot
from tunesmith.models.blockwise import quantised
from tunesmith.models.depth import depths

LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class Moved:
    """`relative`: Frobenius norm of the change over that of the weights, of all trained matrices of the layer."""

    layer: str  # its number, an encoder's before its decoder's; "" for what stands outside (embeddings, last norm)
    relative: float
    largest: str  # the matrix of this layer that moved most, against its own size


def moved(model: PreTrainedModel, slot: Slot, values: Mapping[str, Tensor]) -> list[Moved]:
    """By layer, the lowest first. LoRA's norm is taken without building B A: |B A|^2 = tr((B^T B)(A A^T))."""
    if slot.adapt.method == "peft":  # what its tensors change is known to peft alone
        return []
    changes = lora_changes(model, slot, values) if slot.adapt.method == "lora" else weight_changes(slot, values)
    by_layer: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    deep = depths(model, [name for name, *_ in changes])
    for name, change, size in changes:
        by_layer[str(deep[name] - 1) if LAYER.search(name) else ""].append((name, change, size))
    return [
        Moved(
            layer,
            (sum(c for _, c, _ in rows) / max(sum(s for *_, s in rows), 1e-30)) ** 0.5,
            max(rows, key=lambda row: row[1] / max(row[2], 1e-30))[0],
        )
        for layer, rows in sorted(by_layer.items(), key=lambda item: int(item[0] or -1))
    ]


def weight_changes(slot: Slot, values: Mapping[str, Tensor]) -> list[tuple[str, float, float]]:
    """(name, squared norm of the change, squared norm of the base)."""
    return [
        (name, float((value - slot.neutral[name].to(value)).square().sum()), squared(slot.neutral[name]))
        for name, value in values.items()
        if not name.startswith("heads.")
    ]


def lora_changes(model: PreTrainedModel, slot: Slot, values: Mapping[str, Tensor]) -> list[tuple[str, float, float]]:
    scale = slot.adapt.scale
    weights = {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if ".lora_" not in n}
    held = quantised(model)
    found = []
    for name, a in values.items():
        if ".lora_A" not in name:
            continue
        b = values[name.replace(".lora_A", ".lora_B")]
        whole = name.replace(".lora_A", "")
        change = scale**2 * float(((b.T @ b) * (a @ a.T).T).sum())
        layer = whole.removesuffix(".weight")
        found.append((layer, change, squared(held[layer].weight if layer in held else weights[whole])))
    return found


def squared(weight: Tensor) -> float:
    return float(weight.detach().float().square().sum())
