"""A micro-batch in two, by its examples: what running out of memory asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.types import Forest, Rollouts


@dataclass(frozen=True, slots=True)
class Half:
    """Some examples of a forest, each with every prefix that it stands under."""

    forest: Forest
    tokens: Tensor  # [n] int64, which of the whole forest's tokens these are, in their order


def halves(whole: Forest) -> tuple[Half, Half] | None:
    """Two halves of about equal numbers of tokens; None where there is one example only, or what hangs on segments
    (pairs) would be torn apart."""
    if len(whole.example_ids) < 2 or not (whole.extra is None or isinstance(whole.extra, Rollouts)):
        return None
    own = torch.zeros(len(whole.example_ids), dtype=torch.int64)
    mine = whole.owner.cpu() >= 0
    own.index_add_(0, whole.owner.cpu()[mine], (whole.stop - whole.start).cpu()[mine])
    ends = own.cumsum(0)
    first = int((ends <= ends[-1] // 2).sum())
    cut = min(max(first, 1), len(own) - 1)
    return part(whole, range(cut)), part(whole, range(cut, len(own)))


def part(whole: Forest, examples: range) -> Half:
    """These examples (by index) with the prefixes above them."""
    owner, parent = whole.owner.tolist(), whole.parent.tolist()
    kept = {s for s, o in enumerate(owner) if o in examples}
    for segment in sorted(kept, reverse=True):
        while (segment := parent[segment]) >= 0:
            kept.add(segment)
    segments = sorted(kept)
    place = {old: new for new, old in enumerate(segments)} | {-1: -1}
    start, stop = whole.start.tolist(), whole.stop.tolist()
    device = whole.tokens.device
    tokens = torch.cat([torch.arange(start[s], stop[s], device=device) for s in segments])
    sizes = torch.tensor([stop[s] - start[s] for s in segments], device=device)
    ends = sizes.cumsum(0)
    return Half(
        Forest(
            tokens=whole.tokens[tokens],
            positions=whole.positions[tokens],
            weights=whole.weights[tokens],
            start=ends - sizes,
            stop=ends,
            parent=torch.tensor([place[parent[s]] for s in segments], device=device),
            owner=torch.tensor([owner[s] - examples.start if owner[s] >= 0 else -1 for s in segments], device=device),
            example_ids=whole.example_ids[examples.start : examples.stop],
            extra=sampled(whole, tokens),
        ),
        tokens,
    )


def sampled(whole: Forest, tokens: Tensor) -> Rollouts | None:
    """What is known of those of these tokens that are learned."""
    if not isinstance(whole.extra, Rollouts):
        return None
    is_mine = torch.zeros(whole.num_tokens, dtype=torch.bool, device=tokens.device)
    is_mine[tokens] = True
    rows = is_mine[whole.weights != 0].to(whole.extra.advantage.device)  # no root is learned: each has a predictor
    each = ((f.name, getattr(whole.extra, f.name)) for f in fields(whole.extra))
    mine: dict[str, Any] = {name: t[rows] for name, t in each if isinstance(t, Tensor)}
    return replace(whole.extra, **mine)
