"""Cuts a forest into blocks of tokens that attention computes together.

A block is a run of at most `MAX_BLOCK` tokens of one segment. Its chain is everything before it that it attends to: the
ancestors of its segment and the earlier blocks of its own. Blocks with the same chain and about the same length form a
group: their queries meet the chain's keys in one matrix product, in which the chain is not repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

MAX_BLOCK = 128  # tokens; a causal block wastes half of its square, so long segments are cut (64 to 256 measured alike)
MAX_SCORES = 2**15  # scores of a group per head; its matrices stay near the cache (2**18: up to a tenth slower)
LIKE_FRAC = 0.75  # blocks at least this long, relative to the longest of their group, are padded to it

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """`num` blocks, padded to `length`, that share one chain of P tokens."""

    num: int
    length: int
    start: int  # first token of its first block
    take: Tensor  # [num * length] int64: token of each row; a padding row repeats a token of its block
    is_padding: Tensor | None  # [num * length] bool, None where there is no padding
    chain: Tensor  # [P] int64, tokens of the chain within the window
    ranges: Ranges  # the same as runs (first, one past the last)
    own_mask: Tensor  # [length, length] float32 to be added: 0 or -inf; causal, and within the window
    chain_mask: Tensor | None  # [length, P] float32, None where every query sees the whole chain


@dataclass(frozen=True, slots=True)
class Plan:
    groups: tuple[Group, ...]
    where: Tensor  # [N] int64: the row of each token among the rows of all groups, one after the other


@dataclass(frozen=True, slots=True)
class _Block:
    start: int
    stop: int
    chain: Ranges
    offset: int  # true position of its first token

    @property
    def length(self) -> int:
        return self.stop - self.start


def _join(ranges: Ranges) -> Ranges:
    """The same tokens in the same order, with touching runs made one."""
    joined: list[tuple[int, int]] = []
    for first, stop in ranges:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    return tuple(joined)


def _check(start: tuple[int, ...], stop: tuple[int, ...], parent: tuple[int, ...], num_tokens: int) -> None:
    assert start, "a layout without segments"
    assert (start[0], stop[-1]) == (0, num_tokens), "the segments of a layout must cover all tokens"
    assert all(b == a for b, a in zip(start[1:], stop)), "segments must follow each other without gaps"
    assert all(a < b for a, b in zip(start, stop)), "a segment has no token"
    assert all(-1 <= p < s for s, p in enumerate(parent)), "parents stand before their children"


def _blocks(start: tuple[int, ...], stop: tuple[int, ...], parent: tuple[int, ...]) -> list[_Block]:
    chains: list[Ranges] = []
    blocks = []
    for first, last, above in zip(start, stop, parent):
        chain = () if above < 0 else _join((*chains[above], (start[above], stop[above])))
        chains.append(chain)
        offset = sum(b - a for a, b in chain)
        size = ceil((last - first) / ceil((last - first) / MAX_BLOCK))  # equal blocks, which make groups
        cuts = [*range(first, last, size), last]
        for a, b in pairwise(cuts):
            blocks.append(_Block(a, b, _join((*chain, (first, a))) if a > first else chain, offset + a - first))
    return blocks


def _bundles(blocks: list[_Block]) -> list[list[_Block]]:
    """Blocks by equal chain and like length."""
    bundles: list[list[_Block]] = []
    for block in sorted(blocks, key=lambda b: (b.offset, b.chain, -b.length, b.start)):
        first = bundles[-1][0] if bundles else None
        if (
            first is not None
            and first.chain == block.chain
            and block.length >= LIKE_FRAC * first.length
            and (len(bundles[-1]) + 1) * first.length * (first.length + first.offset) <= MAX_SCORES
        ):
            bundles[-1].append(block)
        else:
            bundles.append([block])
    return bundles


def _group(bundle: list[_Block], window: int | None, device: torch.device) -> Group:
    length, offset = bundle[0].length, bundle[0].offset
    row = torch.arange(length)
    start = torch.tensor([b.start for b in bundle])[:, None]
    size = torch.tensor([b.length for b in bundle])[:, None]
    is_padding = (row >= size).flatten()
    take = (start + torch.minimum(row, size - 1)).flatten()
    chain = torch.cat([torch.arange(a, b) for a, b in bundle[0].chain]) if bundle[0].chain else torch.arange(0)
    ranges, chain_mask = bundle[0].chain, None
    hidden = row[:, None] < row
    if window is not None:
        hidden |= row[:, None] - row >= window
        seen_from = max(0, offset - window + 1)  # the block's first query sees true positions from here on
        chain, ranges = chain[seen_from:], _from(ranges, seen_from)
        beyond = (offset + row[:, None]) - torch.arange(seen_from, offset) >= window
        chain_mask = _additive(beyond).to(device) if bool(beyond.any()) else None
    return Group(
        num=len(bundle),
        length=length,
        start=bundle[0].start,
        take=take.to(device),
        is_padding=is_padding.to(device) if bool(is_padding.any()) else None,
        chain=chain.to(device),
        ranges=ranges,
        own_mask=_additive(hidden).to(device),
        chain_mask=chain_mask,
    )


def _from(ranges: Ranges, skip: int) -> Ranges:
    """The runs without their first `skip` tokens."""
    kept = []
    for first, stop in ranges:
        dropped = min(skip, stop - first)
        skip -= dropped
        if first + dropped < stop:
            kept.append((first + dropped, stop))
    return tuple(kept)


def _additive(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))


@lru_cache(maxsize=16)
def _cached(
    start: tuple[int, ...], stop: tuple[int, ...], parent: tuple[int, ...], window: int | None, device: torch.device
) -> Plan:
    _check(start, stop, parent, stop[-1])
    bundles = _bundles(_blocks(start, stop, parent))
    where = torch.empty(stop[-1], dtype=torch.int64)
    row = 0
    for bundle in bundles:
        for block in bundle:
            where[block.start : block.stop] = torch.arange(row, row + block.length)
            row += bundle[0].length
    return Plan(tuple(_group(bundle, window, device) for bundle in bundles), where.to(device))


def plan(start: Tensor, stop: Tensor, parent: Tensor, window: int | None, device: torch.device) -> Plan:
    """The groups of a layout (three [S] int64 tensors). Made once per layout and window, not per layer."""
    return _cached(tuple(start.tolist()), tuple(stop.tolist()), tuple(parent.tolist()), window, device)
