"""transformers' own generation, for models whose attention cannot be swapped, and as the plain twin of the sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from tunesmith.errors import PlanError
from tunesmith.generate.classes import classes_of
from tunesmith.generate.decode import nats_of, pick
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits, too_late
from tunesmith.models.heads import inner
from tunesmith.models.kinds import has_classes
from tunesmith.models.seq2seq import start_token
from tunesmith.types import Completion


@torch.no_grad()
def generate_plain(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    decode: Callable[[Sequence[int]], str],
    progress: Callable[[int], None] | None = None,
    kept: Kept | None = None,
) -> list[Completion]:
    """Completions, in the order of the prompts: what the engine's own sampler would write, but for rounding. Classes,
    where the model has a head for them."""
    if limits.temperature and has_classes(model):
        raise PlanError("a class head has an answer to each prompt and samples none; use temperature 0")
    until = limits.until()
    done: dict[int, Completion] = {}
    for rows in together(model, prompts, limits.rows):
        if kept is not None and all(i in kept.known for i in rows):
            done |= {i: kept.known[i] for i in rows}
            continue
        if until is not None and time.monotonic() > until:
            raise too_late(limits)
        batch = [prompts[i] for i in rows]
        is_head = has_classes(model)
        found = classes_of(model, batch, decode) if is_head else written(model, batch, limits, decode, rows)
        fresh = dict(zip(rows, found))
        done |= fresh
        if progress is not None:
            progress(len(done))
        if kept is not None:
            kept.keep(fresh)
    return [done[i] for i in range(len(prompts))]


def together(model: PreTrainedModel, prompts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Numbers of the prompts that are answered side by side: of equal length, so that nothing is padded (some models
    read padding); of like length where a probe has shown that it does not: an encoder-decoder, a class head."""
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    groups = list(by_length.values())
    if model.config.is_encoder_decoder or has_classes(model):
        groups = [sorted(range(len(prompts)), key=lambda i: len(prompts[i]))]
    for group in groups:
        yield from (group[first : first + most] for first in range(0, len(group), most))


def written(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], limits: Limits, decode: Callable[[Sequence[int]], str],
    rows: Sequence[int] = (),
) -> list[Completion]:  # fmt: skip
    """Of prompts that are answered at once. `rows`: their numbers among all that are asked, which decide what is drawn;
    nothing is at temperature 0."""
    found = []
    for tokens, nats in zip(*(t.tolist() for t in generated(model, prompts, limits, rows or range(len(prompts))))):
        end = next((n for n, token in enumerate(tokens, 1) if token in limits.stop_ids), None)
        found.append(Completion(tuple(tokens[:end]), tuple(nats[:end]), decode(tokens[:end]), end is not None))
    return found


def greedy(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """As `generated`, by the likeliest tokens."""
    return generated(model, prompts, Limits(max_new_tokens, tuple(stop_ids)), range(len(prompts)))


@torch.no_grad()
def generated(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], limits: Limits, rows: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """([B, n] tokens that transformers' generate writes behind each prompt, [B, n] their nats). What comes behind a
    stop is padding. Prompts of unlike length are padded on the right, for encoder-decoders only."""
    causal = inner(model)
    is_pair, width = causal.config.is_encoder_decoder, max(map(len, prompts))
    assert is_pair or all(len(p) == width for p in prompts), "a decoder would go on from padding"
    tokens = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=causal.device)
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts], device=causal.device)
    settings = GenerationConfig(
        max_new_tokens=limits.max_new_tokens,
        do_sample=False,
        eos_token_id=list(limits.stop_ids) or None,
        pad_token_id=next(iter(limits.stop_ids), None),
        decoder_start_token_id=start_token(causal) if is_pair else None,
    )
    picked, generate = Picked(limits, rows), cast(Any, model).generate  # a mixin that transformers' types do not show
    steps = LogitsProcessorList([picked])
    with bare(causal):
        found = generate(input_ids=tokens, attention_mask=mask, generation_config=settings, logits_processor=steps)
    return found[:, 1 if is_pair else width :], torch.stack(picked.nats, 1)


class Picked(LogitsProcessor):
    """Leaves transformers one token a row to take: the one that the engine's own sampler picks, with the same seeds.
    How likely it is, [B] of each step, is all that is kept of logits [B, V]."""

    def __init__(self, limits: Limits, rows: Sequence[int]) -> None:
        self.limits, self.nats = limits, list[Tensor]()
        self.noise = [torch.Generator().manual_seed(limits.seed_of(row)) for row in rows]
        self.guides = limits.form.start(len(rows)) if limits.form else None
        self.live = list(range(len(rows)))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits_V = scores.float()
        if self.guides:
            logits_V = logits_V.clone()
            logits_V[self.live] = self.guides.masked(logits_V[self.live], self.live)
        logp_V = logits_V.log_softmax(-1)
        picked = pick(logp_V, self.limits, self.noise)
        self.nats.append(nats_of(logp_V, picked, self.limits))
        if self.guides:
            self.guides.add(self.live, picked[self.live].tolist())
        self.live = [k for k in self.live if int(picked[k]) not in self.limits.stop_ids]
        return torch.full_like(scores, float("-inf")).scatter(1, picked[:, None], 0.0)


@contextmanager
def bare(model: PreTrainedModel) -> Iterator[None]:
    """Without what generation_config.json brings along (beams, forced tokens, penalties), which transformers puts
    wherever a setting is left open: greedy is then each step's likeliest token, and nothing else."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
