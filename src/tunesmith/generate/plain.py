"""transformers' own generation, for models whose attention cannot be swapped, and as the plain twin of the sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.errors import PlanError
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits, too_late
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
    """Greedy completions. Prompts of equal length go together, so that nothing is padded: some models read padding."""
    if limits.temperature:
        raise PlanError("sampling at a temperature needs a model of the forest layout; use temperature 0")
    until = None if limits.deadline_s is None else time.monotonic() + limits.deadline_s
    lengths: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(index)
    done: dict[int, Completion] = {}
    for rows in (group[i : i + limits.rows] for group in lengths.values() for i in range(0, len(group), limits.rows)):
        if kept is not None and all(i in kept.known for i in rows):
            done.update((i, kept.known[i]) for i in rows)
            continue
        if until is not None and time.monotonic() > until:
            raise too_late(limits)
        tokens = torch.tensor([list(prompts[i]) for i in rows], device=model.device)
        settings = GenerationConfig(
            max_new_tokens=limits.max_new_tokens,
            do_sample=False,
            eos_token_id=list(limits.stop_ids) or None,
            pad_token_id=next(iter(limits.stop_ids), None),
            return_dict_in_generate=True,
            output_logits=True,
        )
        generate: Any = model.generate  # a mixin that transformers' types do not show
        out = generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        new = out.sequences[:, tokens.shape[1] :]
        logp = torch.stack(out.logits, 1).float().log_softmax(-1).gather(2, new[:, :, None])[:, :, 0]
        for row, written, logps in zip(rows, new.tolist(), logp.tolist()):
            end = next((k + 1 for k, token in enumerate(written) if token in limits.stop_ids), None)
            stopped = end is not None
            reply = written[:end]
            done[row] = Completion(tuple(reply), tuple(logps[:end]), decode(reply), stopped)
        if progress is not None:
            progress(len(done))
        if kept is not None:
            kept.keep({row: done[row] for row in rows})
    return [done[i] for i in range(len(prompts))]
