"""What stands before every sequence, as tokens with ids behind the model's own: a tuned prompt, or a tuned prefix.

A prompt's tokens have trained rows for embeddings. A prefix has trained keys and values in every layer, which attention
puts in the place of those of its tokens; nothing else of them is read, as a later token sees no more of an earlier one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PREFIX = "tunesmith_prefix"  # the keyword argument that a prefix travels in


class Prompted(nn.Module):
    """The model's embeddings, and behind their last row those of the prompt."""

    def __init__(self, plain: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.plain = plain
        self.rows = nn.Parameter(rows.to(device=plain.weight.device, dtype=plain.weight.dtype))

    def made(self) -> Tensor:
        """[n, D] the prompt's rows."""
        return self.rows

    @property
    def weight(self) -> Tensor:
        """Of the model's own, which a head may share."""
        return self.plain.weight

    def forward(self, tokens: Tensor) -> Tensor:
        num = self.plain.weight.shape[0]
        is_own = tokens < num
        embedded = self.plain(torch.where(is_own, tokens, 0))
        rows = self.made()[torch.where(is_own, 0, tokens - num)]
        return torch.where(is_own[..., None], embedded, rows.to(embedded.dtype))


class Encoded(Prompted):
    """A network makes the rows, and its weights are what trains (p-tuning)."""

    def __init__(self, plain: nn.Embedding, network: nn.Module, num: int) -> None:
        super().__init__(plain, torch.empty(0))
        del self.rows
        self.network, self.num = network.to(device=plain.weight.device, dtype=plain.weight.dtype), num

    def made(self) -> Tensor:
        found: Tensor = self.network(torch.arange(self.num, device=self.plain.weight.device))
        return found


class Prefixed(Prompted):
    """The rows are keys and values, as peft holds them: [n, layers * 2 * heads * d]."""

    def forward(self, tokens: Tensor) -> Tensor:
        """A token of the prefix is embedded as the first one of the vocabulary, which nobody sees."""
        return self.plain(torch.where(tokens < self.plain.weight.shape[0], tokens, 0))


class Prefix(NamedTuple):
    at: Tensor  # [B, q] int64: which row of the prefix a token is; below 0: none
    rows: Tensor

    def into(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, q, d] of a layer with those of the prefix at its tokens."""
        own = self.rows.view(len(self.rows), -1, 2, key.shape[1], key.shape[3])[self.at.clamp(min=0), layer]
        is_own = (self.at >= 0)[:, None, :, None]
        keys, values = (part.transpose(1, 2).to(key.dtype) for part in own.unbind(2))
        return torch.where(is_own, keys, key), torch.where(is_own, values, value)


def given(model: PreTrainedModel, tokens: Tensor) -> dict[str, Any]:
    """What a model with a prefix is given beside these tokens [B, q]."""
    found = model.get_input_embeddings()
    return {PREFIX: Prefix(tokens - found.weight.shape[0], found.rows)} if isinstance(found, Prefixed) else {}
