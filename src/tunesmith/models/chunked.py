"""Log-probabilities and any other function of the logits, a chunk of rows at a time: no [L, V] matrix is ever whole.

Every backward computes its chunk of logits again, except for losses that are linear in the log-probabilities: their
gradient is known in the forward pass, so the head's matrix product runs once less (as in Liger's fused linear
cross-entropy, arXiv:2410.10989, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 2**24  # logits at once: 64 MiB in float32; 2**22 was a fifth slower at V = 49152 on a CPU
PIECE = 2**18  # numbers
Settings = tuple[float, float | None, bool]


@dataclass(frozen=True, slots=True)
class Projection:
    """The head as tensors: softcap * tanh(scale * (h W^T + bias) / softcap).

    `sigmoid`: each row k of the weight asks a question by itself. Its answers are tokens 2k (no) and 2k + 1 (yes), and
    their logits are log sigmoid(-z_k) and log sigmoid(z_k): nats already. A softmax over all 2V takes log V off each,
    whatever the weights are, so what is made with one has the same gradient.
    """

    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    scale: float = 1.0
    softcap: float | None = None
    sigmoid: bool = False

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., V] float32 (float64 stays); with `sigmoid` [..., 2V]."""
        out = torch.nn.functional.linear(hidden, self.weight, self.bias)
        out = out if out.dtype == torch.float64 else out.float()
        if self.scale != 1.0:
            out = out * self.scale
        if self.sigmoid:
            out = torch.nn.functional.logsigmoid(torch.stack([-out, out], -1).flatten(-2))
        return out if self.softcap is None else self.softcap * torch.tanh(out / self.softcap)

    @property
    def settings(self) -> Settings:
        return self.scale, self.softcap, self.sigmoid

    def nats(self, logits: Tensor) -> Tensor:
        """Log-probability of every token [c, V or 2V], in a tensor of its own."""
        return logits.clone() if self.sigmoid else logits.log_softmax(-1)

    def rows(self) -> int:
        """Rows of a chunk."""
        return max(1, CHUNK_LOGITS // self.weight.shape[0])

    def logits_backward(self, d_logits: Tensor, logits: Tensor) -> Tensor:
        """Gradient of h W^T + bias [c, V], in place of `d_logits`, cast to the weight's precision."""
        if self.sigmoid:
            (d_no, d_yes), (no, yes) = (x.unflatten(-1, (-1, 2)).unbind(-1) for x in (d_logits, logits.exp()))
            d_logits = d_yes * no - d_no * yes
        if self.softcap is not None:
            d_logits.mul_(1 - (logits / self.softcap).square_())
        if self.scale != 1.0:
            d_logits.mul_(self.scale)
        return d_logits.to(self.weight.dtype)


def _chunks(num: int, rows: int) -> Iterator[slice]:
    return (slice(first, min(first + rows, num)) for first in range(0, num, rows))


def add_to(total: Tensor, x: Tensor) -> None:
    """total += x, both contiguous; x may be of fewer bits. torch would make all of x wide first; a piece of it stays in
    the cache (28 million numbers: 16 ms instead of 80). The same bits."""
    for part, more in zip(total.view(-1).split(PIECE), x.view(-1).split(PIECE), strict=True):
        part.add_(more)


class _Gradients:
    """What one pass over the chunks adds up: gradients of hidden states, weight and bias, each where it is wanted."""

    def __init__(self, hidden: Tensor, head: Projection, wanted: tuple[bool, bool, bool]) -> None:
        wide = torch.float64 if head.weight.dtype == torch.float64 else torch.float32
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight: Tensor | None = None
        self.wants_weight = wanted[1]
        self.bias = torch.zeros_like(head.bias, dtype=wide) if wanted[2] and head.bias is not None else None
        self._head = head

    def add(self, at: slice, hidden: Tensor, d_raw: Tensor) -> None:
        """hidden [c, D] and the gradient d_raw [c, V] of h W^T + bias."""
        if self.hidden is not None:
            self.hidden[at] = d_raw @ self._head.weight
        if self.wants_weight and self.weight is None:
            found = d_raw.t() @ hidden
            self.weight = found if found.dtype == torch.float64 else found.float()
        elif self.weight is not None:
            if self.weight.dtype == d_raw.dtype:
                self.weight.addmm_(d_raw.t(), hidden)
            else:
                add_to(self.weight, d_raw.t() @ hidden)
        if self.bias is not None:
            self.bias += d_raw.sum(0, dtype=self.bias.dtype)

    def cast(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(hidden, weight, bias) in the dtypes of the tensors that they are gradients of."""
        if self.wants_weight and self.weight is None:  # no row
            self.weight = torch.zeros_like(self._head.weight)
        likes = (self.hidden, self._head.weight, self._head.bias)
        pairs = zip((self.hidden, self.weight, self.bias), likes)
        return tuple(None if g is None or x is None else g.to(x.dtype) for g, x in pairs)  # type: ignore[return-value]


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, settings: Settings
    ) -> Tensor:
        head = Projection(weight, bias, *settings)
        parts, tops = [], []
        for at in _chunks(hidden.shape[0], head.rows()):
            logits = head.logits(hidden[at])
            # By log_softmax, which is one fused pass on a CPU, where logsumexp is several.
            value = head.nats(logits).gather(1, target[at, None])[:, 0]
            parts.append(value)
            tops.append(logits.gather(1, target[at, None])[:, 0] - value)
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        empty = hidden.new_empty(0, dtype=wide)
        ctx.save_for_backward(hidden, weight, bias, target, torch.cat([empty, *tops]))
        ctx.settings = settings
        return torch.cat([empty, *parts])

    @staticmethod
    def backward(ctx: Any, d_logp: Tensor) -> tuple:
        hidden, weight, bias, target, lse = ctx.saved_tensors
        head = Projection(weight, bias, *ctx.settings)
        grads = _Gradients(hidden, head, ctx.needs_input_grad[:3])
        for at in _chunks(hidden.shape[0], head.rows()):
            logits = head.logits(hidden[at])
            d_logits = (logits - lse[at, None]).exp_().mul_(-d_logp[at, None])
            d_logits.scatter_add_(1, target[at, None], d_logp[at, None].to(d_logits.dtype))
            grads.add(at, hidden[at], head.logits_backward(d_logits, logits))
        return *grads.cast(), None, None


def logp(hidden: Tensor, head: Projection, target: Tensor) -> Tensor:
    """log p(target) of each row, [L] nats, float32. hidden [L, D], target [L]. The backward makes the logits again."""
    return _LogProb.apply(hidden, head.weight, head.bias, target, head.settings)


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, by: Tensor, asked: tuple
    ) -> tuple[Tensor, Tensor]:
        settings, with_grad = asked
        head = Projection(weight, bias, *settings)
        wanted = tuple(need and with_grad for need in ctx.needs_input_grad[:3])
        grads = _Gradients(hidden, head, wanted)
        parts = [hidden.new_empty(0, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)]
        for at in _chunks(hidden.shape[0], head.rows()):
            logits = head.logits(hidden[at])
            logq = head.nats(logits)
            parts.append(logq.gather(1, target[at, None])[:, 0])
            if any(wanted):
                d_logits = logq.exp_().mul_(by[at, None])
                d_logits.scatter_add_(1, target[at, None], -by[at, None])
                grads.add(at, hidden[at], head.logits_backward(d_logits, logits))
        ctx.save_for_backward(*grads.cast())
        values = torch.cat(parts)
        ctx.mark_non_differentiable(values)
        return -(by * values).sum(), values

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, _: Tensor | None) -> tuple:
        return (
            *(None if grad is None else grad * d_total.to(grad.dtype) for grad in ctx.saved_tensors),
            None,
            None,
            None,
        )


def linear_loss(hidden: Tensor, head: Projection, target: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """(-sum_l by_l log p(target_l), the log-probabilities [L] without gradient), in one pass. `by` [L] is a constant.

    The gradient is made in the forward pass and kept until the backward; a frozen weight costs nothing.
    """
    by = by.detach().to(torch.float64 if head.weight.dtype == torch.float64 else torch.float32)
    asked = (head.settings, torch.is_grad_enabled())
    return _LinearLoss.apply(hidden, head.weight, head.bias, target, by, asked)


class _Rows(torch.autograd.Function):
    """fn over chunks of row tensors [L, ...] and whole tensors, kept as inputs only; the backward runs fn again."""

    @staticmethod
    def forward(ctx: Any, fn: Callable[..., Tensor], rows: int, num_rowwise: int, *tensors: Tensor | None) -> Tensor:
        ctx.fn, ctx.rows, ctx.num_rowwise = fn, rows, num_rowwise
        ctx.save_for_backward(*tensors)
        first = tensors[0]
        assert first is not None
        # A forest without learned tokens still has an output of the right width.
        cuts = list(_chunks(first.shape[0], rows)) or [slice(0, 0)]
        return torch.cat([fn(*_cut(tensors, at, num_rowwise)) for at in cuts])

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        totals = [torch.zeros_like(x) if need else None for x, need in zip(tensors, needs)]
        for at in _chunks(tensors[0].shape[0], ctx.rows):
            inputs: list[Any] = [
                None if x is None else x.detach().requires_grad_(need)
                for x, need in zip(_cut(tensors, at, ctx.num_rowwise), needs)
            ]
            with torch.enable_grad():
                out = ctx.fn(*inputs)
            wanted = [i for i, need in enumerate(needs) if need]
            if not out.requires_grad:
                continue
            grads = torch.autograd.grad(out, [inputs[i] for i in wanted], d_out[at], allow_unused=True)
            for i, grad in zip(wanted, grads):
                if grad is not None:
                    total = totals[i]
                    assert total is not None
                    (total[at] if i < ctx.num_rowwise else total).add_(grad)
        return None, None, None, *totals


def _cut(tensors: tuple[Tensor | None, ...], at: slice, num_rowwise: int) -> list[Tensor | None]:
    return [x if x is None or i >= num_rowwise else x[at] for i, x in enumerate(tensors)]


def over_rows(fn: Callable[..., Tensor], rows: int, rowwise: list[Tensor], whole: list[Tensor | None]) -> Tensor:
    """cat over chunks of `rows` rows of fn(*chunks of rowwise, *whole), [L, ...]; the backward runs fn again."""
    return _Rows.apply(fn, rows, len(rowwise), *rowwise, *whole)
