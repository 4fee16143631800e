"""Drawn noise as a pure function of seed, update, tensor and token: how an update is cut or packed does not move it.

A token's key is a hash of its whole path from the root: equal prefixes have equal keys, whether they are stored once or
with every example. The numbers are made of the keys by a hash of integers, so they are the same on every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.types import Forest

# Odd constants of splitmix64 (Steele et al. 2014), as signed numbers, and of Ellis' lowbias32.
A64, B64, C64 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
A32, B32 = 0x7FEB352D, 0x846CA68B - 2**32
BITS = 24  # of a drawn number


@dataclass(slots=True)
class Draw:
    """The noise of the micro-batch that runs; see roles.Noise. Modules that draw hold it and read it when they run."""

    seed: int = 0
    _batch: Forest | None = None
    _keys: Tensor | None = None

    def set(self, batch: Forest | None, seed: int) -> None:
        """None: nothing that is keyed runs from now on."""
        self._batch, self.seed, self._keys = batch, seed, None

    @property
    def keys(self) -> Tensor | None:
        """[N] int64, made when they are first asked for."""
        if self._keys is None and self._batch is not None:
            self._keys = token_keys(self._batch)
        return self._keys

    @property
    def lengths(self) -> Tensor | None:
        """[N] int64."""
        return None if self._batch is None else path_lengths(self._batch)


def wrapped(number: int) -> int:
    """As a signed number of 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def mixed(x: Tensor) -> Tensor:
    """splitmix64's finaliser, on int64 that wraps around."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * B64
    x = (x ^ ((x >> 27) & (2**37 - 1))) * C64
    return x ^ ((x >> 31) & (2**33 - 1))


def token_keys(batch: Forest) -> Tensor:
    """[N] int64: a hash of the tokens from the root to each token. Roots of one example differ (R-Drop's twins)."""
    own = mixed(batch.tokens * A64 + mixed(batch.positions + 1))
    ends = own.cumsum(0)  # wraps around, as it may
    first: list[int] = []
    num_roots: dict[int, int] = {}
    starts, stops = batch.start.tolist(), batch.stop.tolist()
    for parent, owner in zip(batch.parent.tolist(), batch.owner.tolist()):
        if parent >= 0:
            first.append(-1)
            continue
        num_roots[owner] = num_roots.get(owner, -1) + 1
        # a shared prefix and the first root of an example are the same thing, stored in two ways
        first.append(num_roots[owner] if owner >= 0 else 0)
    keys = torch.empty_like(own)
    for s, parent in enumerate(batch.parent.tolist()):
        before = ends[starts[s] - 1] if starts[s] else torch.zeros_like(own[0])
        above = keys[stops[parent] - 1] if parent >= 0 else wrapped(first[s] * A64)
        keys[starts[s] : stops[s]] = ends[starts[s] : stops[s]] - before + above
    return keys


def path_lengths(batch: Forest) -> Tensor:
    """[N] int64: tokens of the longest sequence, root to leaf, that each token is in."""
    size = (batch.stop - batch.start).tolist()
    parent = batch.parent.tolist()
    above = [0] * len(size)
    for s, p in enumerate(parent):
        above[s] = 0 if p < 0 else above[p] + size[p]
    longest = [a + n for a, n in zip(above, size)]
    for s in reversed(range(len(size))):
        if parent[s] >= 0:
            longest[parent[s]] = max(longest[parent[s]], longest[s])
    each = torch.tensor(longest, device=batch.tokens.device)
    return each.repeat_interleave(batch.stop - batch.start, output_size=batch.num_tokens)


def key_of(*words: object) -> int:
    """A number of 31 bits that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, words)).encode()).digest()[:4], "little") >> 1


def uniform(keys: Tensor, width: int, salt: int) -> Tensor:
    """[N, width] int32 in [0, 2**BITS), of the keys [N], the column and the salt alone."""
    row = mixed(keys ^ wrapped(salt * B64)).to(torch.int32)  # the low half
    column = mixed(torch.arange(1, width + 1, device=keys.device) * A64).to(torch.int32)
    x = row[:, None] ^ column[None]
    x = (x ^ ((x >> 16) & 0xFFFF)).mul_(A32)
    x = (x ^ ((x >> 15) & 0x1FFFF)).mul_(B32)
    return (x >> (32 - BITS)).bitwise_and_(2**BITS - 1)


class KeyedDropout(nn.Module):
    """Dropout whose mask is that of the token, not of the call. Where rows are padded, or nothing is keyed (a model's
    own forward pass), it is the ordinary one."""

    def __init__(self, p: float, name: str, draw: Draw) -> None:
        super().__init__()
        self.p, self.salt, self.draw = p, key_of(name), draw

    def forward(self, x: Tensor) -> Tensor:
        """x [1, N, D]."""
        if not self.training or self.p == 0:
            return x
        mask = self.mask(x)
        return nn.functional.dropout(x, self.p) if mask is None else x * mask

    @torch.compiler.disable  # it reads what changes with each micro-batch
    def mask(self, x: Tensor) -> Tensor | None:
        """[N, D], 0 or 1 / (1 - p); None where x has other rows than the forest has tokens, or several padded ones."""
        keys = self.draw.keys
        if keys is None or x.shape[:-1].numel() != keys.numel() or x.shape[0] not in (1, keys.numel()):
            return None
        kept = uniform(keys, x.shape[-1], self.salt ^ self.draw.seed) >= int(self.p * 2**BITS)
        return kept.to(x.dtype).mul_(1 / (1 - self.p))
