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
    """Greedy completions, in the order of the prompts; classes, where the model has a head for them."""
    if limits.temperature:
        raise PlanError("sampling at a temperature needs a model of the forest layout; use temperature 0")
    until = limits.until()
    done: dict[int, Completion] = {}
    for rows in together(model, prompts, limits.rows):
        if kept is not None and all(i in kept.known for i in rows):
            done |= {i: kept.known[i] for i in rows}
            continue
        if until is not None and time.monotonic() > until:
            raise too_late(limits)
        batch = [prompts[i] for i in rows]
        found = classes_of(model, batch, decode) if has_classes(model) else written(model, batch, limits, decode)
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
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], limits: Limits, decode: Callable[[Sequence[int]], str]
) -> list[Completion]:
    """Of prompts that are answered at once."""
    found = []
    for tokens, nats in zip(*(t.tolist() for t in greedy(model, prompts, limits.max_new_tokens, limits.stop_ids))):
        end = next((n for n, token in enumerate(tokens, 1) if token in limits.stop_ids), None)
        found.append(Completion(tuple(tokens[:end]), tuple(nats[:end]), decode(tokens[:end]), end is not None))
    return found


@torch.no_grad()
def greedy(
    model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """([B, n] tokens that transformers' generate writes behind each prompt, [B, n] their nats). What comes behind a
    stop is padding. Prompts of unlike length are padded on the right, for encoder-decoders only."""
    causal = inner(model)
    is_pair, width = causal.config.is_encoder_decoder, max(map(len, prompts))
    assert is_pair or all(len(p) == width for p in prompts), "a decoder would go on from padding"
    tokens = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=causal.device)
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts], device=causal.device)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=next(iter(stop_ids), None),
        decoder_start_token_id=start_token(causal) if is_pair else None,
    )
    nats, generate = Nats(), cast(Any, model).generate  # a mixin that transformers' types do not show
    steps = LogitsProcessorList([nats])
    with bare(causal):
        found = generate(input_ids=tokens, attention_mask=mask, generation_config=settings, logits_processor=steps)
    return found[:, 1 if is_pair else width :], torch.stack(nats.steps, 1)


class Nats(LogitsProcessor):
    """How likely the likeliest token is, [B] of each step: all that is kept of logits [B, V], and what greedy takes."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


@contextmanager
def bare(model: PreTrainedModel) -> Iterator[None]:
    """Without what generation_config.json brings along (beams, forced tokens, penalties), which transformers puts
    wherever a setting is left open: greedy is then each step's likeliest token, and nothing else."""
    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before
