"""The engine's own sampler: prompts -> completions with the log-probability of every token sampled.

The prefix that all prompts share is computed once and its keys and values are kept once, not once a row; each row has
only its own remainder in a buffer that is allocated once. Rows that stopped leave the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits, too_late
from tunesmith.models.forward import attention
from tunesmith.models.heads import Head
from tunesmith.types import Completion

NAME = "tunesmith_decode"
PREFILL_ROWS = 16


@dataclass(slots=True)
class Buffers:
    """Keys and values of the layers: a shared prefix [1, K, P, d] and the rows' own columns [B, K, T, d]."""

    prefix: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    num_prefix: int = 0
    pad_B: Tensor | None = None  # [B] left padding of the own columns
    column: int = 0  # where the next tokens go
    capacity: int = 0
    hidden_keys: dict[int | None, Tensor | None] = field(default_factory=dict)  # by window, of this forward pass

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put [B, K, q, d] at the current column; returns the views of all columns so far."""
        if layer not in self.own:
            shape = (key.shape[0], key.shape[1], self.capacity, key.shape[3])
            # zeros: columns left of a short row are masked, and 0 times what stood in memory could be NaN
            self.own[layer] = (key.new_zeros(shape), value.new_zeros((*shape[:3], value.shape[3])))
        keys, values = self.own[layer]
        end = self.column + key.shape[2]
        keys[:, :, self.column : end] = key
        values[:, :, self.column : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        self.own = {layer: (k[rows], v[rows]) for layer, (k, v) in self.own.items()}
        assert self.pad_B is not None
        self.pad_B = self.pad_B[rows]

    def as_prefix(self) -> Buffers:
        """These one-row buffers as the shared prefix of new ones."""
        end = self.column
        prefix = {layer: (k[:, :, :end].contiguous(), v[:, :, :end].contiguous()) for layer, (k, v) in self.own.items()}
        return Buffers(prefix=prefix, num_prefix=end)


@dataclass(frozen=True, slots=True)
class Step:
    """One more token of each row that goes on."""

    rows: tuple[int, ...]
    tokens: list[int]
    logps: list[float]  # nats
    best: list[list[tuple[int, float]]]  # of each row, the likeliest tokens and their nats, where they were asked for


def hidden_keys(buffers: Buffers, num_queries: int, num_keys: int, window: int | None) -> Tensor | None:
    """[B, 1, 1, q, P + T] of the keys that a query must not see, None where it sees all; made once a forward pass."""
    if window not in buffers.hidden_keys:
        hidden = ~visible(buffers, num_queries, num_keys, window)
        buffers.hidden_keys[window] = hidden if bool(hidden.any()) else None
    return buffers.hidden_keys[window]


def visible(buffers: Buffers, num_queries: int, num_keys: int, window: int | None) -> Tensor:
    """[B, 1, 1, q, P + T] of which keys a query may see; positions count without the padding."""
    assert buffers.pad_B is not None
    pad = buffers.pad_B[:, None, None]
    device = pad.device
    query = torch.arange(buffers.column, buffers.column + num_queries, device=device)[None, :, None]
    key = torch.arange(num_keys, device=device)[None, None, :]
    own = (key <= query) & (key >= pad)
    own = own | (key == query)  # a padding column sees itself, so that no row of the softmax is empty
    prefix = torch.ones(own.shape[0], num_queries, buffers.num_prefix, dtype=torch.bool, device=device)
    if window is not None:
        own = own & (query - key < window)
        at = torch.arange(buffers.num_prefix, device=device)[None, None, :]
        prefix = prefix & (buffers.num_prefix + query - pad - at < window)
    return torch.cat([prefix, own], -1)[:, None, None]


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
    **ignored: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, H, q, d] to the shared prefix and the row's own columns, softmax in float32."""
    if decode_buffers is None:
        raise RuntimeError(f"attention {NAME!r} was called without its buffers; generate through tunesmith.generate")
    buffers = decode_buffers
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = buffers.write(layer, key, value)
    batch, heads, num_queries, dim = query.shape
    kv_heads = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    grouped = (query * scale).view(batch, kv_heads, heads // kv_heads, num_queries, dim)
    folded = grouped.reshape(batch, kv_heads, -1, dim)
    own = (folded @ keys.transpose(-1, -2)).view(*grouped.shape[:4], -1)
    parts = [own]
    if buffers.num_prefix:
        prefix_k, prefix_v = buffers.prefix[layer]
        rows = grouped.permute(1, 0, 2, 3, 4).reshape(kv_heads, -1, dim)  # all rows share the prefix: one matmul a head
        shared = (rows @ prefix_k[0].transpose(-1, -2)).view(kv_heads, batch, -1, num_queries, buffers.num_prefix)
        parts = [shared.permute(1, 0, 2, 3, 4), own]
    scores = torch.cat(parts, -1).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = hidden_keys(buffers, num_queries, keys.shape[2], sliding_window)
    if hidden is not None:
        scores = scores.masked_fill_(hidden, float("-inf"))
    if s_aux is not None:  # attention sinks (GPT-OSS): one more logit a head, whose value is zero
        sink = s_aux.float().view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:4], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    weights = weights.to(values.dtype)
    own_w = weights[..., buffers.num_prefix :].reshape(batch, kv_heads, -1, keys.shape[2])
    out = (own_w @ values).view(batch, kv_heads, -1, num_queries, values.shape[-1])
    if buffers.num_prefix:
        rows_w = weights[..., : buffers.num_prefix].permute(1, 0, 2, 3, 4).reshape(kv_heads, -1, buffers.num_prefix)
        shared_out = (rows_w @ prefix_v[0]).view(kv_heads, batch, -1, num_queries, values.shape[-1])
        out = out + shared_out.permute(1, 0, 2, 3, 4)
    return out.reshape(batch, heads, num_queries, values.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, decode_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # `visible` takes its place


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prefix that all prompts share, short of the shortest's last token."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    longest = min(len(p) for p in prompts) - 1
    return next((i for i in range(longest) if first[i] != last[i]), longest)


class Sampler:
    """Answers prompts with one model. Greedy at temperature 0; each row has its own seeded generator otherwise."""

    def __init__(self, model: PreTrainedModel, head: Head, decode: Callable[[Sequence[int]], str]) -> None:
        self.model, self.head, self.decode = model, head, decode

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Sequence[int]], limits: Limits, progress: Callable[[int], None] | None = None,
        kept: Kept | None = None,
    ) -> list[Completion]:  # fmt: skip
        """Completions in the order of the prompts. `progress` is told how many rows are done."""
        done: dict[int, Completion] = {}
        if not prompts:
            return []
        self.model.eval()
        until = limits.until()
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of like length waste no padding
        with attention(self.model, NAME):
            num_shared = common_prefix(prompts) if len(prompts) > 1 else 0
            prefix = self.shared(prompts[0][:num_shared])
            for first in range(0, len(order), limits.rows):
                rows = order[first : first + limits.rows]
                if kept is not None and all(i in kept.known for i in rows):
                    done.update((i, kept.known[i]) for i in rows)
                    continue
                tails = [list(prompts[i][num_shared:]) for i in rows]
                fresh = dict(zip(rows, self._batch(tails, rows, prefix, limits, until)))
                done.update(fresh)
                if progress is not None:
                    progress(len(done))
                if kept is not None:
                    kept.keep(fresh)
        return [done[i] for i in range(len(prompts))]

    def read_in(self, tails: list[list[int]], prefix: Buffers, max_new_tokens: int) -> tuple[Tensor, Buffers]:
        """(hidden state [B, D] behind each prompt, buffers with room for the answers)."""
        longest = max(len(t) for t in tails)
        pad = torch.tensor([longest - len(t) for t in tails], device=self.model.device)
        buffers = Buffers(prefix.prefix, {}, prefix.num_prefix, pad, 0, longest + max_new_tokens)
        return self._prefill(tails, longest, buffers), buffers

    def shared(self, tokens: Sequence[int]) -> Buffers:
        """Keys and values of the prefix that all prompts have."""
        if not tokens:
            return Buffers()
        buffers = Buffers(capacity=len(tokens), pad_B=torch.zeros(1, dtype=torch.int64, device=self.model.device))
        self._forward(torch.tensor([list(tokens)], device=self.model.device), buffers)
        return buffers.as_prefix()

    def _forward(self, tokens: Tensor, buffers: Buffers) -> Tensor:
        """[B, q] tokens -> hidden state [B, D] of the last column; the buffers move on by q."""
        assert buffers.pad_B is not None
        columns = torch.arange(buffers.column, buffers.column + tokens.shape[1], device=tokens.device)
        positions = (buffers.num_prefix + columns[None] - buffers.pad_B[:, None]).clamp(min=0)
        out = self.model.base_model(
            input_ids=tokens, position_ids=positions, use_cache=False, attention_mask=None, decode_buffers=buffers
        )
        buffers.column += tokens.shape[1]
        buffers.hidden_keys.clear()
        return out.last_hidden_state[:, -1]

    def _prefill(self, tails: list[list[int]], longest: int, buffers: Buffers) -> Tensor:
        """The rows' own prompts, few rows of like length at a time: a short row has its tokens in the last columns, so
        the columns before them are not computed. Returns the hidden state [B, D] of the last column."""
        device = self.model.device
        assert buffers.pad_B is not None
        states, parts = [], []
        for first in range(0, len(tails), PREFILL_ROWS):
            rows = tails[first : first + PREFILL_ROWS]
            width = max(map(len, rows))
            tokens = torch.tensor([[0] * (width - len(t)) + t for t in rows], device=device)
            pad = buffers.pad_B[first : first + PREFILL_ROWS]
            part = replace(buffers, own={}, pad_B=pad, column=longest - width, hidden_keys={})
            states.append(self._forward(tokens, part).clone())  # a view would keep the states of all columns
            parts.append(part.own)
        for layer in parts[0]:
            keys, values = zip(*(own[layer] for own in parts))
            buffers.own[layer] = (torch.cat(keys), torch.cat(values))
        buffers.column = longest
        return torch.cat(states)

    def _batch(
        self, tails: list[list[int]], rows: list[int], prefix: Buffers, limits: Limits, until: float | None
    ) -> list[Completion]:
        written: list[list[int]] = [[] for _ in tails]
        logps: list[list[float]] = [[] for _ in tails]
        stopped: set[int] = set()
        for step in self._steps(tails, rows, prefix, limits, stopped):
            for i, token, logp in zip(step.rows, step.tokens, step.logps):
                written[i].append(token)
                logps[i].append(logp)
                if token in limits.stop_ids:
                    stopped.add(i)
            is_done = len(stopped) == len(tails) or len(written[step.rows[0]]) == limits.max_new_tokens
            if not is_done and until is not None and time.monotonic() > until:
                raise too_late(limits)
        return [
            Completion(tuple(w), tuple(lp), self.decode(w), i in stopped)
            for i, (w, lp) in enumerate(zip(written, logps))
        ]

    @torch.no_grad()
    def steps(
        self, prompt: Sequence[int], num: int, limits: Limits, stopped: set[int], top: int = 0
    ) -> Generator[Step]:
        """One prompt answered `num` times side by side, token by token; the caller puts rows that are done into
        `stopped`. Row i draws as row i of a call does. To be used up or closed in the thread that asked."""
        self.model.eval()
        with attention(self.model, NAME):
            prefix = self.shared(prompt[:-1] if num > 1 else ())
            tails = [list(prompt[prefix.num_prefix :])] * num
            yield from self._steps(tails, list(range(num)), prefix, limits, stopped, top)

    @torch.no_grad()
    def side_by_side(self, prompts: Sequence[Sequence[int]], limits: Limits) -> Generator[Step]:
        """Prompts answered together as a call does, step by step, whatever stops."""
        self.model.eval()
        with attention(self.model, NAME):
            num_shared = common_prefix(prompts) if len(prompts) > 1 else 0
            prefix = self.shared(prompts[0][:num_shared])
            tails = [list(p[num_shared:]) for p in prompts]
            yield from self._steps(tails, list(range(len(tails))), prefix, limits, set())

    def _steps(
        self, tails: list[list[int]], rows: list[int], prefix: Buffers, limits: Limits, stopped: set[int], top: int = 0
    ) -> Generator[Step]:
        """The tokens of a batch, one step at a time. Rows that the caller has put into `stopped` leave after a step."""
        device = self.model.device
        hidden, buffers = self.read_in(tails, prefix, limits.max_new_tokens)
        noise = [torch.Generator().manual_seed((limits.seed * 1_000_003 + row) % 2**63) for row in rows]
        alive = list(range(len(tails)))  # rows of the buffers, as indices into tails
        for step in range(limits.max_new_tokens):
            logp_V = self.head.logits(hidden).float().log_softmax(-1)
            picked = pick(logp_V, limits, [noise[i] for i in alive])
            best = logp_V.topk(min(top, logp_V.shape[-1])) if top else None
            yield Step(
                tuple(alive),
                picked.tolist(),
                logp_V.gather(1, picked[:, None])[:, 0].tolist(),
                [list(zip(i, p)) for i, p in zip(best.indices.tolist(), best.values.tolist())] if best else [],
            )
            live = [k for k, i in enumerate(alive) if i not in stopped]
            if not live or step + 1 == limits.max_new_tokens:
                return
            if len(live) < len(alive):
                keep = torch.tensor(live, device=device)
                buffers.keep(keep)
                alive, picked = [alive[k] for k in live], picked[keep]
            hidden = self._forward(picked[:, None], buffers)


def pick(logp_V: Tensor, limits: Limits, noise: list[torch.Generator]) -> Tensor:
    """[B] tokens: the likeliest, or drawn from the top-p part of the tempered distribution, one generator a row."""
    if limits.temperature == 0:
        return logp_V.argmax(-1)
    prob, index = (logp_V / limits.temperature).softmax(-1).sort(-1, descending=True)
    prob = torch.where(prob.cumsum(-1) - prob < limits.top_p, prob, torch.zeros_like(prob))
    drawn = torch.stack([torch.multinomial(row.cpu(), 1, generator=g)[0] for row, g in zip(prob, noise)])
    return index.gather(1, drawn.to(index.device)[:, None])[:, 0]
