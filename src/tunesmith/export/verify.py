"""An export is done when plain peft and transformers, reading only its files, give what the session gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import RunError
from tunesmith.generate.limits import Limits
from tunesmith.types import Completion

TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}  # of logits; merging adds its own rounding


@dataclass(frozen=True, slots=True)
class Expected:
    """What the session answered to a few prompts, and the logits behind each prompt."""

    prompts: tuple[tuple[int, ...], ...]
    completions: tuple[Completion, ...]
    logits: tuple[torch.Tensor, ...]  # [V] each, at the prompt's last position
    stop_ids: tuple[int, ...]
    max_new_tokens: int
    dtype: torch.dtype


def expect(session: Session, snapshot: Snapshot, prompts: Sequence[Sequence[int]], limits: Limits) -> Expected:
    """Ask the session."""
    done = session.sample(snapshot, prompts, limits, decode=lambda tokens: "")
    logits = tuple(session.next_logits(snapshot, p) for p in prompts)
    dtype = session.base.model.dtype
    return Expected(tuple(map(tuple, prompts)), tuple(done), logits, limits.stop_ids, limits.max_new_tokens, dtype)


@torch.no_grad()
def verify(name: str, model: PreTrainedModel | PeftModel, expected: Expected) -> dict[str, Any]:
    """Facts of the comparison. Raises RunError at a difference: such an export must not be used."""
    largest, same = 0.0, 0
    tolerance = TOLERANCE[expected.dtype]
    for prompt, completion, wanted_V in zip(expected.prompts, expected.completions, expected.logits):
        tokens = torch.tensor([prompt])
        found_V = model(input_ids=tokens, logits_to_keep=1).logits[0, -1].float()
        largest = max(largest, float((found_V - wanted_V).abs().max()))
        settings = GenerationConfig(
            max_new_tokens=expected.max_new_tokens,
            do_sample=False,
            eos_token_id=list(expected.stop_ids),
            pad_token_id=expected.stop_ids[0],
        )
        generate: Any = model.generate  # a mixin that transformers' types do not show
        out = generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        same += tuple(out[0, len(prompt) :].tolist()) == completion.tokens
    total = len(expected.prompts)
    facts = {"max_logit_diff": largest, "same_text": same == total, "num_prompts": total, "num_same": same}
    if largest > tolerance or (expected.dtype == torch.float32 and same < total):
        raise RunError(
            f"the {name}, loaded by plain transformers, is not the model that was measured: logits differ by up to "
            f"{largest:.2g} (at most {tolerance:.2g} is rounding) and {same} of {total} greedy answers are the same. "
            "Do not use this export; please report it with the run folder."
        )
    return facts
