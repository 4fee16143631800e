"""Who gets which micro-batches of an update: by what they cost, so that no rank waits long for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from tunesmith.models.load import Base
from tunesmith.types import Forest

FAR = 2**62  # tokens: no window


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's micro-batches. `numbers`: their places in the whole update, which do not depend on who gets them.
    `idle`: what is run and counts for nothing, where every rank has to make as many passes as the busiest."""

    numbers: tuple[int, ...]
    batches: list[Forest]
    idle: tuple[Forest, ...] = ()


def deal(costs: Sequence[float], size: int) -> list[list[int]]:
    """The places of each rank's micro-batches, in their order: the dearest first, to whoever has least to do; at most a
    third longer than the best there is (Graham 1969). A single one is the leader's."""
    parts: list[list[int]] = [[] for _ in range(size)]
    loads = [0.0] * size
    for place in sorted(range(len(costs)), key=lambda k: (-costs[k], k)):
        rank = min(range(size), key=lambda r: (loads[r], r))
        parts[rank].append(place)
        loads[rank] += costs[place]
    return [sorted(part) for part in parts]


def shares(costs: Sequence[float], batches: Sequence[Forest], size: int, *, pads: bool) -> list[Share]:
    """Of each rank. With `pads` all have as many: the cheapest of the update, again."""
    places = deal(costs, size)
    most = max(map(len, places)) if pads else 0
    cheapest = batches[min(range(len(costs)), key=lambda k: costs[k])].to("cpu")
    return [
        Share(tuple(part), [batches[k].to("cpu") for k in part], (cheapest,) * (most - len(part))) for part in places
    ]


def cost_of(base: Base, slower: float = 1.0) -> Callable[[Forest], float]:
    """Multiply-adds of a forward pass: weights for each token, the head for each learned one, and attention for each
    pair of a token and one that it sees, in each layer, `slower` times as dear."""
    config, head, body = base.model.config.get_text_config(), numel(base.model.get_output_embeddings()), body_of(base)
    windows = Counter(windows_of(config))
    seen = 2 * slower * config.hidden_size

    def cost(forest: Forest) -> float:
        num_learned, seen_N = int((forest.weights != 0).sum()), forest.positions + 1
        num_pairs = sum(num * int(seen_N.clamp(max=window).sum()) for window, num in windows.items())
        return float(body * forest.num_tokens + head * num_learned + seen * num_pairs)

    return cost


def body_of(base: Base) -> int:
    """Weights beside those of the head and of what is looked up."""
    inner, outer = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    looked_up = 0 if outer is not None and outer.weight is inner.weight else numel(inner)
    return base.num_weights - numel(outer) - looked_up


def windows_of(config: PreTrainedConfig) -> list[int]:
    """How many tokens one attends to at most, layer by layer; 0 where a layer has no attention."""
    said = config.to_dict()
    window, chunk = (said.get(name) or FAR for name in ("sliding_window", "attention_chunk_size"))
    by_kind = {"full_attention": FAR, "sliding_attention": window, "chunked_attention": chunk}
    if kinds := said.get("layer_types"):
        return [by_kind.get(kind, 0) for kind in kinds]
    near = window if said.get("use_sliding_window", True) else FAR
    return [near if said.get("num_attention_heads") else 0] * config.num_hidden_layers


def numel(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def share_of_longest(costs: Sequence[float], size: int) -> float:
    """Of an update's work, what the busiest rank does; 1 / size where all have as much."""
    return max(sum(costs[k] for k in part) for part in deal(costs, size)) / sum(costs)
