"""An export is done when plain peft and transformers, reading only its files, give what the session gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import RunError
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import greedy
from tunesmith.models.blockwise import quantised
from tunesmith.models.heads import inner
from tunesmith.models.seq2seq import asking
from tunesmith.types import Completion

# Of the logits' own spread (their standard deviation over the vocabulary): root mean square difference behind a prompt.
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 5e-3}
MERGED_HALF = 0.1  # weights and adapter that were added before they were rounded to 16 bits


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
def difference(model: PreTrainedModel | PeftModel, prompt: Sequence[int], wanted_V: torch.Tensor) -> float:
    """Root mean square difference of the logits behind a prompt, of their spread over the vocabulary."""
    found_V = model(**asking(inner(model), prompt)).logits[0, -1].float()
    return float((found_V - wanted_V).square().mean().sqrt() / wanted_V.std())


def on_whole_base(opened: PeftModel, expected: Expected) -> dict[str, float]:
    """How far an adapter on the base as it is stands from what was measured on a base in fewer bits; {} where the base
    was as it is. Said, and not judged: nobody measured how well that model does."""
    layers = list(quantised(opened).values())
    if not layers:
        return {}
    own = layers[0].own  # which all of them share
    own.is_asked = own.is_under_adapters = True
    try:
        return {"whole_base_diff": max(difference(opened, p, v) for p, v in zip(expected.prompts, expected.logits))}
    finally:
        own.is_asked = own.is_under_adapters = False


def whole_base_note(exported: Mapping[str, Any]) -> str:
    """Of the verdict, from export.json; "" where the base was as it is."""
    apart = exported.get("adapter", {}).get("whole_base_diff")
    if apart is None:
        return ""
    return (
        "the tuned model is an adapter on the base held in fewer bits. On the base as it is its logits differ by "
        f"{apart:.2g} of their spread, and nobody measured how well that does: the merged model is what was measured"
    )


@torch.no_grad()
def verify(
    name: str, model: PreTrainedModel | PeftModel, expected: Expected, *, is_merged: bool = False
) -> dict[str, Any]:
    """Facts of the comparison. Raises RunError at a difference: such an export must not be used."""
    differences, same, is_half = [], 0, expected.dtype != torch.float32
    close = MERGED_HALF if is_merged and is_half else CLOSE[expected.dtype]
    for prompt, completion, wanted_V in zip(expected.prompts, expected.completions, expected.logits):
        differences.append(difference(model, prompt, wanted_V))
        written, _ = greedy(model, [prompt], expected.max_new_tokens, expected.stop_ids)
        same += tuple(written[0].tolist()) == completion.tokens
    total, apart = len(expected.prompts), max(differences, default=0.0)
    facts = {"logit_diff": apart, "same_text": same == total, "num_prompts": total, "num_same": same}
    if not all(d <= close for d in differences) or (not is_half and same < total):
        raise RunError(
            f"the {name}, loaded by plain transformers, is not the model that was measured: logits differ by "
            f"{apart:.2g} of their spread (at most {close:.2g} is rounding) and {same} of {total} greedy answers are "
            "the same. Do not use this export; please report it with the run folder."
        )
    return facts
