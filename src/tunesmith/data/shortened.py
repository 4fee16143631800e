"""A micro-batch with fewer tokens of the same shape, for the clock: where one example alone takes long."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tunesmith.data.halves import sampled
from tunesmith.types import Forest


def shortened(whole: Forest, most: int) -> Forest:
    """Every segment as much shorter, so that about `most` tokens are left, at evenly spaced places. The first and the
    last of a segment stay, and the first of its learned ones, so that it is learned from as it was."""
    share = most / whole.num_tokens
    if share >= 1:
        return whole
    sizes = (whole.stop - whole.start).tolist()
    kept = [
        first + places(whole.weights[first : first + size] != 0, round(share * size))
        for first, size in zip(whole.start.tolist(), sizes)
    ]
    ends, tokens = torch.tensor([len(part) for part in kept]).cumsum(0), torch.cat(kept)
    begins: list[int] = []  # position of each segment's first token
    for parent in whole.parent.tolist():
        begins.append(begins[parent] + len(kept[parent]) if parent >= 0 else 0)
    return replace(
        whole, tokens=whole.tokens[tokens], weights=whole.weights[tokens],
        positions=torch.cat([begin + torch.arange(len(part)) for begin, part in zip(begins, kept)]),
        start=torch.cat([ends.new_zeros(1), ends[:-1]]), stop=ends,
        extra=sampled(whole, tokens) or whole.extra,
    )  # fmt: skip


def places(learned: Tensor, num: int) -> Tensor:
    """[n] `num` of a segment's places or a few more, in order."""
    spaced = torch.linspace(0, len(learned) - 1, max(2, num)).round().long()
    return torch.cat([spaced, learned.nonzero()[:1, 0]]).unique()
