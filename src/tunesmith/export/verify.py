"""An export is done when plain peft and transformers, reading only its files, give what the session gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import RunError
from tunesmith.generate.limits import Limits
from tunesmith.generate.plain import greedy, written
from tunesmith.models.blockwise import quantised
from tunesmith.models.heads import inner
from tunesmith.models.seq2seq import asking
from tunesmith.types import Completion

# Of the logits' own spread (their standard deviation over the vocabulary): root mean square difference behind a prompt.
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 5e-3}
GAP = 5.0  # times CLOSE: how far below the best a token that the session chose may be, where rounding may decide


@dataclass(frozen=True, slots=True)
class Expected:
    """What the session answered to a few prompts, and the logits behind each prompt."""

    prompts: tuple[tuple[int, ...], ...]
    completions: tuple[Completion, ...]
    logits: tuple[Tensor, ...]  # [V] each, at the prompt's last position
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
def in_float32(model: PreTrainedModel | PeftModel, expected: Expected) -> Expected:
    """What the tuned model, opened in float32, answers to the same prompts: whole weights are held against this where
    the session computes in 16 bits, so that their comparison is sharp."""
    if expected.dtype == torch.float32:
        return expected
    assert inner(model).dtype == torch.float32
    limits = Limits(expected.max_new_tokens, expected.stop_ids)
    done = [written(inner(model), [prompt], limits, lambda tokens: "")[0] for prompt in expected.prompts]
    logits = tuple(logits_behind(model, prompt) for prompt in expected.prompts)
    return replace(expected, completions=tuple(done), logits=logits, dtype=torch.float32)


def logits_behind(model: PreTrainedModel | PeftModel, prompt: Sequence[int], begun: Sequence[int] = ()) -> Tensor:
    found_V: Tensor = model(**asking(inner(model), prompt, begun)).logits[0, -1].float()
    return found_V


def relative(found_V: Tensor, wanted_V: Tensor) -> float:
    """Root mean square difference of logits, of their spread over the vocabulary."""
    return float((found_V - wanted_V).square().mean().sqrt() / wanted_V.std())


@torch.no_grad()
def difference(model: PreTrainedModel | PeftModel, prompt: Sequence[int], wanted_V: Tensor) -> float:
    return relative(logits_behind(model, prompt), wanted_V)


def is_tie(model: PreTrainedModel | PeftModel, prompt: Sequence[int], wanted: Sequence[int], found: Sequence[int],
           most: float) -> bool:  # fmt: skip
    """Whether the first token in which two answers part is within `most` of the best, of the logits' spread."""
    at = next((n for n, pair in enumerate(zip(wanted, found)) if pair[0] != pair[1]), None)
    if at is None:  # one goes on where the other ends
        return False
    logits_V = logits_behind(model, prompt, wanted[:at])
    return float((logits_V.max() - logits_V[wanted[at]]) / logits_V.std()) <= most


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


def from_measured(exact: Expected, measured: Expected) -> dict[str, Any]:
    """How far the tuned model in float32, `exact`, is from itself in the 16 bits in which it was measured. Said, and
    not judged: it is what rounding does. {} where it was measured in float32."""
    if measured.dtype == torch.float32:
        return {}
    same = sum(a.tokens == b.tokens for a, b in zip(exact.completions, measured.completions))
    return measured_facts(measured.dtype, max(map(relative, exact.logits, measured.logits), default=0.0), same)


def measured_facts(dtype: torch.dtype, apart: float, same: int) -> dict[str, Any]:
    return {"measured_in": str(dtype).removeprefix("torch."), "measured_diff": apart, "measured_same": same}


def export_notes(exported: Mapping[str, Any]) -> list[str]:
    """Of the verdict, from export.json: what else than was measured somebody would run."""
    said = [whole_base_note(exported)]
    found = exported.get("merged", {})
    if "measured_in" in found:
        said.append(
            f"the verdict was measured in {found['measured_in']}, and the merged model is written in float32: computed "
            f"so, {found['measured_same']} of {found['num_prompts']} answers are those that were measured, and what it "
            f"gives differs by {found['measured_diff']:.2g} of its spread, which is rounding"
        )
    return list(filter(None, said))


@torch.no_grad()
def verify(name: str, model: PreTrainedModel | PeftModel, expected: Expected) -> dict[str, Any]:
    """Facts of the comparison. Raises RunError at a difference: such an export must not be used. In 16 bits answers may
    part where two tokens are as good as each other."""
    differences, same, ties = [], 0, 0
    is_half, close = expected.dtype != torch.float32, CLOSE[expected.dtype]
    for prompt, completion, wanted_V in zip(expected.prompts, expected.completions, expected.logits):
        differences.append(difference(model, prompt, wanted_V))
        [found] = greedy(model, [prompt], expected.max_new_tokens, expected.stop_ids)[0].tolist()
        if tuple(found) == completion.tokens:
            same += 1
        elif is_half:
            ties += is_tie(model, prompt, completion.tokens, found, GAP * close)
    total, apart = len(expected.prompts), max(differences, default=0.0)
    if not all(d <= close for d in differences) or same + ties < total:
        raise RunError(
            f"the {name}, loaded by plain transformers, is not the model that was measured: logits differ by "
            f"{apart:.2g} of their spread (at most {close:.2g} is rounding) and {same} of {total} greedy answers are "
            "the same. Do not use this export; please report it with the run folder."
        )
    facts = {"logit_diff": apart, "same_text": same == total, "num_prompts": total, "num_same": same}
    return {**facts, "num_ties": ties} if is_half else facts
