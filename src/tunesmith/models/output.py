"""What an objective may ask of a forward pass over a forest: `ForwardOutput`, the package's `roles.Output`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tunesmith.models import chunked
from tunesmith.models.heads import Head, KeptHead
from tunesmith.models.hidden import hidden_states
from tunesmith.types import Forest


@dataclass(frozen=True, slots=True)
class Scored:
    """The L tokens that a head is asked about, in the order of the forest's tokens."""

    at: Tensor  # [L] int64, index of the predicting position
    target: Tensor  # [L] int64, token to be predicted
    weight: Tensor  # [L] float32; 0 = scored but not learned
    segment: Tensor  # [L] int64, segment of the target token


def scored(forest: Forest, also: Tensor | None = None) -> Scored:
    """The learned tokens (weight other than 0), and those where `also` ([N] bool) is true, whatever they weigh.

    A root's first token has no predictor and is left out; a child's first token is predicted from its parent's last.
    """
    device = forest.tokens.device
    segment_N = torch.repeat_interleave(
        torch.arange(forest.num_segments, device=device), forest.stop - forest.start, output_size=forest.num_tokens
    )
    at_N = torch.arange(-1, forest.num_tokens - 1, device=device)
    is_child = forest.parent >= 0
    at_N[forest.start] = torch.where(is_child, forest.stop[forest.parent.clamp_min(0)] - 1, -1)
    wanted = forest.weights != 0
    if also is not None:
        wanted = wanted | also
    index = (wanted & (at_N >= 0)).nonzero()[:, 0]
    return Scored(at_N[index], forest.tokens[index], forest.weights[index], segment_N[index])


@dataclass(slots=True)
class ForwardOutput:
    """Hidden states, and everything over the vocabulary in chunks. See roles.Output for the axes."""

    hidden: Tensor  # [N, D] after the final norm
    at: Tensor  # [L]
    target: Tensor  # [L]
    weight: Tensor  # [L]; 0 may be scored but is not learned
    segment: Tensor  # [L]
    head: Head | KeptHead
    start: Tensor  # [S] int64
    stop: Tensor  # [S] int64
    scalars: dict[str, Tensor] = field(default_factory=dict)
    _logp: Tensor | None = None  # kept, so that two readers cost one pass

    def logp(self) -> Tensor:
        """log p of the target tokens [L], nats, float32; made once, in chunks, and the backward recomputes them."""
        if self._logp is None:
            self._logp = chunked.logp(self.hidden[self.at], self.head.projection, self.target)
        return self._logp

    def linear_loss(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(-sum of weights * logp [], logp [L] without gradient), in one pass. `weights` [L] carries no gradient."""
        return chunked.linear_loss(self.hidden[self.at], self.head.projection, self.target, weights)

    def over_vocab(self, fn: Callable[..., Tensor], *others: Tensor | ForwardOutput) -> Tensor:
        """fn(logits [c, V] float32, ...) -> [c] or [c, k], over chunks of the L rows; [L] or [L, k].

        Of a tensor [L, ...] fn gets the same rows; of another output with as many rows, its logits of the same rows
        (a reference, a teacher, the other half of R-Drop). Gradients reach all of them; what fn closes over gets none.
        """
        outputs = [self, *(other for other in others if isinstance(other, ForwardOutput))]
        heads = [output.head.projection for output in outputs]
        rowwise = [self.hidden[self.at]]
        for other in others:
            row = other.hidden[other.at] if isinstance(other, ForwardOutput) else other
            if row.shape[0] != rowwise[0].shape[0]:
                raise ValueError(
                    f"over_vocab: {row.shape[0]} rows beside {rowwise[0].shape[0]}; give tensors of [L, ...]"
                )
            rowwise.append(row)
        is_output = [True, *(isinstance(other, ForwardOutput) for other in others)]

        def apply(*tensors: Tensor) -> Tensor:
            rows, whole = tensors[: len(rowwise)], iter(tensors[len(rowwise) :])
            shapes = iter(heads)
            arguments = [
                replace(next(shapes), weight=next(whole), bias=next(whole)).logits(row) if is_logits else row
                for row, is_logits in zip(rows, is_output)
            ]
            return fn(*arguments)

        whole = [tensor for head in heads for tensor in (head.weight, head.bias)]
        return chunked.over_rows(apply, min(head.rows() for head in heads), rowwise, whole)

    def pooled(self, how: str) -> Tensor:
        """One hidden state per segment [S, D]: of its "first" or "last" token, or the "mean" over its own tokens."""
        if how == "last":
            return self.hidden[self.stop - 1]
        if how == "first":
            return self.hidden[self.start]
        assert how == "mean", f"no pooling {how!r}"
        size = self.stop - self.start
        segment_N = torch.repeat_interleave(torch.arange(len(size), device=size.device), size)
        total = self.hidden.new_zeros(len(size), self.hidden.shape[1]).index_add(0, segment_N, self.hidden)
        return total / size[:, None]

    def select(self, rows: Tensor) -> ForwardOutput:
        """The same output asked about these of its L rows, in this order (R-Drop puts twins side by side)."""
        picked = {name: getattr(self, name)[rows] for name in ("at", "target", "weight", "segment")}
        scalars = {k: v[rows] if k == "value" else v for k, v in self.scalars.items()}
        return replace(self, **picked, scalars=scalars, _logp=None)


def output(
    model: nn.Module,
    head: Head,
    forest: Forest,
    layout: str,
    scalars: dict[str, Tensor] | None = None,
    also: Tensor | None = None,
) -> ForwardOutput:
    """Runs the model on a forest. `also`: [N] bool, tokens to score though they weigh 0."""
    asked = scored(forest, also)
    return ForwardOutput(
        hidden=hidden_states(model, forest, layout),
        at=asked.at,
        target=asked.target,
        weight=asked.weight,
        segment=asked.segment,
        head=head,
        start=forest.start,
        stop=forest.stop,
        scalars=dict(scalars or {}),
    )
