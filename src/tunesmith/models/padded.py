"""The padded layout of a forest: one right-padded row per leaf (root to leaf), run with the model's own attention.

For models whose attention can't be swapped, or whose other layers mix tokens. A prefix stands in every row of its tree;
its hidden states are taken from the first, so gradients are those of the forest.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.types import Forest


def leaf_paths(parent: Sequence[int]) -> list[tuple[int, ...]]:
    """The segments of each sequence of a forest, root first, one per leaf."""
    has_child = set(parent)
    paths = []
    for leaf in range(len(parent)):
        if leaf in has_child:
            continue
        path = [leaf]
        while parent[path[-1]] >= 0:
            path.append(parent[path[-1]])
        paths.append(tuple(reversed(path)))
    return paths


@dataclass(frozen=True, slots=True)
class Rows:
    """A right-padded matrix of tokens, R rows of T, and where each token of the forest stands in it."""

    token: Tensor  # [R, T] int64: index into the forest's tokens; 0 where padded
    mask: Tensor  # [R, T] int64: 1 on tokens, 0 on padding
    position: Tensor  # [R, T] int64; padding repeats the row's last
    where: Tensor  # [N] int64: first place of each token in the flattened matrix; -1 = nowhere


def padded_rows(runs: Sequence[Sequence[tuple[int, int]]], num_tokens: int) -> Rows:
    """`runs`: per row the token runs [start, stop) that it consists of."""
    flat = [torch.cat([torch.arange(a, b) for a, b in row]) if row else torch.arange(0) for row in runs]
    width = max(len(row) for row in flat)
    token = torch.zeros(len(flat), width, dtype=torch.int64)
    mask = torch.zeros_like(token)
    where = torch.full((num_tokens,), -1, dtype=torch.int64)
    for r, row in reversed(list(enumerate(flat))):  # the first row that holds a token writes last
        token[r, : len(row)] = row
        mask[r, : len(row)] = 1
        where[row] = r * width + torch.arange(len(row))
    position = torch.minimum(torch.arange(width), (mask.sum(1, keepdim=True) - 1).clamp_min(0))
    return Rows(token, mask, position, where)


def padded_hidden(model: PreTrainedModel, forest: Forest) -> Tensor:
    """Hidden states after the final norm [N, D], by the padded layout."""
    start, stop = forest.start.tolist(), forest.stop.tolist()
    runs = [[(start[s], stop[s]) for s in path] for path in leaf_paths(forest.parent.tolist())]
    rows = padded_rows(runs, forest.num_tokens)
    body, device = model.base_model, forest.tokens.device
    inputs: dict[str, Any] = {
        "input_ids": forest.tokens[rows.token.to(device)],
        "attention_mask": rows.mask.to(device),
        "use_cache": False,
    }
    if "position_ids" in inspect.signature(body.forward).parameters:
        inputs["position_ids"] = rows.position.to(device)
    hidden = body(**inputs).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, rows.where.to(device))
