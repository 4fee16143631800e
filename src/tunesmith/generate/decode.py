"""The engine's own sampler: prompts -> completions with the log-probability of every token sampled.

The prefix that all prompts share is read once, and so is a prompt that is answered several times; keys and values of
both are kept once, not once a row. Rows that stopped leave the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.generate.buffers import NAME, Buffers
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits, too_late
from tunesmith.models import before
from tunesmith.models.forward import attention
from tunesmith.models.heads import Head
from tunesmith.types import Completion

PREFILL_ROWS = 16
COLDEST = 1e-6  # below it the likeliest token is taken: nats divided by less leave float32


@dataclass(frozen=True, slots=True)
class Step:
    """One more token of each row that goes on."""

    rows: tuple[int, ...]
    tokens: list[int]
    logps: list[float]  # nats
    best: list[list[tuple[int, float]]]  # of each row, the likeliest tokens and their nats, where they were asked for


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
        # rows of like length waste no padding, and equal prompts are read together
        first_of: dict[tuple[int, ...], int] = {}
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), first_of.setdefault(tuple(prompts[i]), i)))
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
        """(hidden state [B, D] behind each prompt, buffers with room for the answers). Equal ones are read once."""
        texts: dict[tuple[int, ...], int] = {}
        of = [texts.setdefault(tuple(tail), len(texts)) for tail in tails]
        is_several = len(texts) < len(tails)
        buffers = laid(list(map(len, texts)), prefix, 0 if is_several else max_new_tokens)
        hidden = self.prefill(list(map(list, texts)), buffers)
        if is_several:
            hidden, buffers = hidden[torch.tensor(of, device=hidden.device)], buffers.under(of, max_new_tokens)
        return hidden, buffers

    def logits(self, prompt: Sequence[int]) -> Tensor:
        """[V] behind one prompt."""
        with attention(self.model, NAME):
            return self.head.logits(self.read_in([list(prompt)], self.shared(()), 0)[0])[0]

    def shared(self, tokens: Sequence[int]) -> Buffers:
        """Keys and values of the prefix that all prompts have."""
        buffers = Buffers.empty(self.model.device, len(tokens))
        if tokens:
            self._forward(torch.tensor([list(tokens)], device=self.model.device), buffers)
        return buffers

    def _forward(self, tokens: Tensor, buffers: Buffers) -> Tensor:
        """[B, q] tokens -> hidden state [B, D] of the last column; the buffers move on by q."""
        positions = buffers.positions(tokens.shape[1]).clamp(min=0)
        out = self.model.base_model(
            input_ids=tokens, position_ids=positions, use_cache=False, attention_mask=None, decode_buffers=buffers,
            **before.given(self.model, tokens),
        )  # fmt: skip
        buffers.column += tokens.shape[1]
        buffers.hidden_keys.clear()
        return out.last_hidden_state[:, -1]

    def prefill(self, tails: list[list[int]], buffers: Buffers, begin: int = 0) -> Tensor:
        """The rows' own prompts from row `begin` on, few rows of like length at a time: a short row has its tokens in
        the last columns, so the columns before them are not computed. Returns the hidden state [B, D] of the last
        column."""
        longest, states = max(map(len, tails)), []
        for first in range(begin, len(tails), PREFILL_ROWS):
            rows = tails[first : first + PREFILL_ROWS]
            width = max(map(len, rows))
            tokens = torch.tensor([[0] * (width - len(t)) + t for t in rows], device=self.model.device)
            part = buffers.rows(slice(first, first + len(rows)), longest - width)
            states.append(self._forward(tokens, part).clone())  # a view would keep the states of all columns
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
            rows = list(range(num))
            yield from self._steps([list(prompt)] * num, rows, self.shared(()), limits, stopped, top)

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
        hidden, buffers = self.read_in(tails, prefix, limits.max_new_tokens)
        noise = [torch.Generator().manual_seed(limits.seed_of(row)) for row in rows]
        alive = list(range(len(tails)))  # rows of the buffers, as indices into tails
        guides = limits.form.start(len(tails)) if limits.form else None
        for step in range(limits.max_new_tokens):
            logits_V = self.head.logits(hidden).float()
            logp_V = (guides.masked(logits_V, alive) if guides else logits_V).log_softmax(-1)
            picked = pick(logp_V, limits, [noise[i] for i in alive])
            if guides:
                guides.add(alive, picked.tolist())
            best = logp_V.topk(min(top, logp_V.shape[-1])) if top else None
            yield Step(
                tuple(alive),
                picked.tolist(),
                nats_of(logp_V, picked, limits).tolist(),
                [list(zip(i, p)) for i, p in zip(best.indices.tolist(), best.values.tolist())] if best else [],
            )
            live = [k for k, i in enumerate(alive) if i not in stopped]
            if not live or step + 1 == limits.max_new_tokens:
                return
            if len(live) < len(alive):
                buffers.keep(live)
                alive, picked = [alive[k] for k in live], picked[live]
            hidden = self._forward(picked[:, None], buffers)


def laid(lengths: Sequence[int], prefix: Buffers, room: int) -> Buffers:
    """For texts of these lengths behind the prefix, with `room` for what is written: short ones are padded."""
    longest = max(lengths)
    buffers = prefix.under([0] * len(lengths), longest + room)
    buffers.pad_B = torch.tensor([longest - n for n in lengths], device=buffers.pad_B.device)
    buffers.is_padded = min(lengths) < longest
    return buffers


def nats_of(logp_V: Tensor, picked: Tensor, limits: Limits) -> Tensor:
    """[B] of the picked tokens, by the model itself or as they were drawn."""
    if limits.tempered and limits.temperature not in (0, 1):
        logp_V = (logp_V / limits.temperature).log_softmax(-1)
    return logp_V.gather(1, picked[:, None])[:, 0]


def pick(logp_V: Tensor, limits: Limits, noise: list[torch.Generator]) -> Tensor:
    """[B] tokens: the likeliest, or drawn from the top-p part of the tempered distribution, one generator a row."""
    if limits.temperature < COLDEST:
        return logp_V.argmax(-1)
    prob = logp_V.exp() if limits.temperature == 1 else (logp_V / limits.temperature).softmax(-1)
    if limits.top_p == 1:
        return drawn(prob, noise)
    prob, index = prob.sort(-1, descending=True)
    prob = torch.where(prob.cumsum(-1) - prob < limits.top_p, prob, torch.zeros_like(prob))
    return index.gather(1, drawn(prob, noise)[:, None])[:, 0]


def drawn(prob_V: Tensor, noise: list[torch.Generator]) -> Tensor:
    """[B] indices, each with its probability (of the row's sum): where a number of the row's generator falls."""
    ends_V = prob_V.cumsum(-1)
    at = torch.stack([torch.rand((), generator=g) for g in noise]).to(ends_V)[:, None] * ends_V[:, -1:]
    return torch.searchsorted(ends_V, at, right=True)[:, 0]  # the first that ends above it; below 1 times the sum
