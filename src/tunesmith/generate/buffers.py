"""Keys and values while answers are written: what several rows have read is kept once, and each row keeps its own.

Rows stand on levels: the prefix that all prompts begin with, the rest of each prompt that differs from the others, and
the columns that each row writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tunesmith.models.before import Prefix

NAME = "tunesmith_decode"
QUERIES = 256  # that are computed at a time
Kept = dict[int, tuple[Tensor, Tensor]]  # layer -> keys, values


class Level:
    """U texts as keys [U, K, T, d] and values of each layer; row b goes on from text `of[b]`. Every text has a row."""

    def __init__(self, kept: Kept, begin_U: Tensor, pad_U: Tensor, of: Sequence[int], *, is_padded: bool) -> None:
        self.kept, self.begin_U, self.pad_U, self.of, self.is_padded = kept, begin_U, pad_U, list(of), is_padded
        self.num_tokens = next(iter(kept.values()))[0].shape[2]
        num = len(pad_U)
        places = [0] * num
        slots = []
        for text in self.of:
            slots.append(places[text])
            places[text] += 1
        self.most = max(places)  # rows of a text
        at = [text * self.most + slot for text, slot in zip(self.of, slots)]
        self.is_full = at == list(range(num * self.most))
        self.at_B = torch.tensor(at, device=pad_U.device)
        self.of_B = torch.tensor(self.of, device=pad_U.device)

    def rows(self, some: Sequence[int]) -> Level:
        """For these of its rows, without the texts that none of them goes on from."""
        of = [self.of[b] for b in some]
        used = sorted(set(of))
        if len(used) == len(self.pad_U):
            return Level(self.kept, self.begin_U, self.pad_U, of, is_padded=self.is_padded)
        place, keep = {text: n for n, text in enumerate(used)}, torch.tensor(used, device=self.pad_U.device)
        kept = {layer: (k[keep], v[keep]) for layer, (k, v) in self.kept.items()}
        new_of = [place[text] for text in of]
        return Level(kept, self.begin_U[keep], self.pad_U[keep], new_of, is_padded=self.is_padded)

    def by_text(self, x: Tensor) -> Tensor:
        """[B, K, m, c] of rows -> [U, K, n m, c]: the rows of a text are one matrix."""
        _, heads, m, c = x.shape
        if not self.is_full:
            x = x.new_zeros(len(self.pad_U) * self.most, heads, m, c).index_copy_(0, self.at_B, x)
        if self.most == 1:
            return x
        return x.view(-1, self.most, heads, m, c).transpose(1, 2).reshape(-1, heads, self.most * m, c)

    def by_row(self, x: Tensor) -> Tensor:
        """The way back."""
        if self.most > 1:
            x = x.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.is_full else x.index_select(0, self.at_B)

    def scores(self, layer: int, query: Tensor) -> Tensor:
        """Queries [B, K, m, d] -> [B, K, m, T]."""
        return self.by_row(self.by_text(query) @ self.kept[layer][0].transpose(-1, -2))

    def values(self, layer: int, weights: Tensor) -> Tensor:
        """Weights [B, K, m, T] -> [B, K, m, d]."""
        return self.by_row(self.by_text(weights) @ self.kept[layer][1])

    def visible(self, position_Bq: Tensor, window: int | None) -> Tensor:
        """[B, q, T]"""
        pad = self.pad_U[self.of_B][:, None, None]
        key = torch.arange(self.num_tokens, device=pad.device)[None, None, :]
        seen = (key >= pad).expand(*position_Bq.shape, -1)
        if window is None:
            return seen
        return seen & (position_Bq[..., None] - (self.begin_U[self.of_B][:, None, None] + key - pad) < window)


@dataclass(slots=True)
class Buffers:
    """The levels that rows stand on, and their own columns [B, K, T, d]; `part`: rows that are read in now."""

    begin_B: Tensor  # [B] tokens of the levels below each row
    pad_B: Tensor  # [B] left padding of the own columns
    capacity: int
    levels: tuple[Level, ...] = ()
    own: Kept = field(default_factory=dict)
    column: int = 0  # where the next tokens go
    is_padded: bool = False
    part: slice | None = None
    hidden_keys: dict[tuple[int | None, Block], Tensor | None] = field(default_factory=dict)  # of this forward pass

    @classmethod
    def empty(cls, device: torch.device, capacity: int = 0) -> Buffers:
        """One row on nothing."""
        none = torch.zeros(1, dtype=torch.int64, device=device)
        return cls(none, none, capacity)

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put [B, K, q, d] at the current column; returns the views of all columns so far."""
        if layer not in self.own:
            shape = (len(self.begin_B), key.shape[1], self.capacity, key.shape[3])
            # zeros: columns left of a short row are masked, and 0 times what stood in memory could be NaN
            self.own[layer] = (key.new_zeros(shape), value.new_zeros((*shape[:3], value.shape[3])))
        keys, values = (x if self.part is None else x[self.part] for x in self.own[layer])
        end = self.column + key.shape[2]
        keys[:, :, self.column : end] = key
        values[:, :, self.column : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Only these go on. Layer by layer, so that little stands there twice."""
        at = torch.tensor(rows, device=self.pad_B.device)
        for layer, (k, v) in self.own.items():
            self.own[layer] = (k[at], v[at])
        self.begin_B, self.pad_B = self.begin_B[at], self.pad_B[at]
        self.levels = tuple(level.rows(rows) for level in self.levels)

    def under(self, of: Sequence[int], capacity: int) -> Buffers:
        """New rows, of which row b goes on from what row `of[b]` of these has read."""
        at = torch.tensor(of, device=self.pad_B.device)
        levels = tuple(level.rows(of) for level in self.levels)
        if self.column:
            levels += (Level(self.own, self.begin_B, self.pad_B, of, is_padded=self.is_padded),)
        begin_B = self.begin_B[at] + self.column - self.pad_B[at]
        return Buffers(begin_B, torch.zeros_like(begin_B), capacity, levels)

    def rows(self, part: slice, column: int) -> Buffers:
        """Some rows for a pass of their own, which writes into these from `column` on."""
        numbers = range(len(self.begin_B))[part]
        levels = tuple(level.rows(numbers) for level in self.levels)
        return Buffers(self.begin_B, self.pad_B, self.capacity, levels, self.own, column, self.is_padded, part)

    def positions(self, num: int) -> Tensor:
        """[B, num] of the next tokens, without the padding."""
        begin, pad = (x if self.part is None else x[self.part] for x in (self.begin_B, self.pad_B))
        columns = torch.arange(self.column, self.column + num, device=begin.device)
        return (begin - pad)[:, None] + columns[None]


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [first, stop) of a pass, and the own columns [begin, end) that any of them may see."""

    first: int
    stop: int
    begin: int
    end: int


def blocks(column: int, num_queries: int, window: int | None) -> list[Block]:
    """Of a pass that begins at `column`: few queries at a time, so that the scores of a long prompt never stand whole,
    and none is computed of a column that comes later or is out of the window."""
    found = []
    for first in range(0, num_queries, QUERIES):
        stop = min(first + QUERIES, num_queries)
        begin = 0 if window is None else max(0, column + first - window + 1)
        found.append(Block(first, stop, begin, column + stop))
    return found


def hidden_keys(buffers: Buffers, block: Block, window: int | None) -> Tensor | None:
    """[B, 1, 1, q, T] of the keys that a query must not see, None where it sees all; made once a forward pass."""
    if (window, block) not in buffers.hidden_keys:
        hidden = None
        is_padded = buffers.is_padded or any(level.is_padded for level in buffers.levels)
        if block.stop - block.first > 1 or is_padded or window is not None:
            hidden = ~visible(buffers, block, window)
            hidden = hidden if bool(hidden.any()) else None
        buffers.hidden_keys[window, block] = hidden
    return buffers.hidden_keys[window, block]


def visible(buffers: Buffers, block: Block, window: int | None) -> Tensor:
    """[B, 1, 1, q, T] of which keys a query of the block may see: level by level, and own columns last."""
    pad = (buffers.pad_B if buffers.part is None else buffers.pad_B[buffers.part])[:, None, None]
    query = torch.arange(buffers.column + block.first, buffers.column + block.stop, device=pad.device)[None, :, None]
    key = torch.arange(block.begin, block.end, device=pad.device)[None, None, :]
    own = (key <= query) & (key >= pad)
    own = own | (key == query)  # a padding column sees itself, so that no row of the softmax is empty
    if window is not None:
        own = own & (query - key < window)
    position_Bq = buffers.positions(block.stop)[:, block.first :]
    return torch.cat([*(level.visible(position_Bq, window) for level in buffers.levels), own], -1)[:, None, None]


def decode_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    decode_buffers: Buffers | None = None,
    tunesmith_prefix: Prefix | None = None,
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, H, q, d] to the levels below and to the row's own columns, softmax in float32."""
    if decode_buffers is None:
        raise RuntimeError(f"attention {NAME!r} was called without its buffers; generate through tunesmith.generate")
    buffers, layer = decode_buffers, int(module.layer_idx)  # type: ignore[arg-type]
    if tunesmith_prefix is not None:
        key, value = tunesmith_prefix.into(layer, key, value)
    keys, values = buffers.write(layer, key, value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query = (query * scale).unflatten(1, (key.shape[1], -1))
    outs = []
    for block in blocks(buffers.column, query.shape[3], sliding_window):
        own = keys[:, :, block.begin : block.end], values[:, :, block.begin : block.end]
        hidden = hidden_keys(buffers, block, sliding_window)
        some = query[:, :, :, block.first : block.stop]
        outs.append(attended(some, (buffers, layer), own, hidden, (softcap, s_aux)))
    out = outs[0] if len(outs) == 1 else torch.cat(outs, 3)
    return out.flatten(1, 2).transpose(1, 2).contiguous(), None


def attended(
    query: Tensor, below: tuple[Buffers, int], own: tuple[Tensor, Tensor], hidden: Tensor | None, settings: tuple
) -> Tensor:
    """Scaled queries [B, K, g, q, d] -> [B, K, g, q, dv] by the keys of the levels in a layer and own ones."""
    (buffers, layer), (keys, values), (softcap, s_aux) = below, own, settings
    # the queries of one key/value head are one matrix, so that keys are never repeated
    grouped = query.flatten(2, 3)
    parts = [*(level.scores(layer, grouped) for level in buffers.levels), grouped @ keys.transpose(-1, -2)]
    sizes = [part.shape[-1] for part in parts]
    scores = (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    by_query = scores.view(*query.shape[:4], scores.shape[-1])
    if hidden is not None:
        by_query = by_query.masked_fill_(hidden, float("-inf"))
    if s_aux is not None:  # attention sinks (GPT-OSS): one more logit a head, whose value is zero
        sink = s_aux.float().view(1, query.shape[1], -1, 1, 1).expand(*by_query.shape[:4], 1)
        weights = torch.cat([by_query, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = by_query.softmax(-1)
    *upper, last = weights.flatten(2, 3).to(values.dtype).split(sizes, -1)
    out = last @ values
    for level, part in zip(buffers.levels, upper):
        out = out + level.values(layer, part)
    return out.view(*query.shape[:4], -1)


AttentionInterface.register(NAME, decode_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # `visible` takes its place
