"""Tries the row layout on a loaded model: texts side by side against one by one, and its head against its logits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.class_head import ClassHead
from tunesmith.models.heads import evaluating
from tunesmith.models.probe import Probe
from tunesmith.models.rows import LAYOUT, row_hidden
from tunesmith.types import Forest

SIZES = (12, 5, 7)  # tokens of the texts that are tried


def probe_rows(model: PreTrainedModel) -> Probe:
    """ModelError where the layout does not suit the model."""
    try:
        worst = largest_diff(model)
        why = f"difference {worst:.1e}"
    except Exception as error:  # whatever an architecture raises, it means: not this layout
        worst, why = float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not worst <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise ModelError(
            f"{type(model).__name__} gives other pooled states in a batch than one text at a time, or its logits are "
            f"not its last linear layer on them ({why}). Use another model."
        )
    return Probe(LAYOUT, worst, "a text is read whole and given a class")


def largest_diff(model: PreTrainedModel) -> float:
    """Relative, of texts side by side to each alone, and of the head to the model's own logits."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    low = min(16, vocabulary // 2)
    tokens = low + (torch.arange(sum(SIZES)) * 7919 + 31) % (vocabulary - low)
    whole = roots(tokens, torch.tensor(SIZES).cumsum(0)).to(model.device)
    head, found = replace(ClassHead(model).projection, sigmoid=False), []
    with evaluating(model):
        together = row_hidden(model, whole)[whole.stop - 1]
        for state, a, b in zip(together, whole.start.tolist(), whole.stop.tolist()):
            single = roots(tokens[a:b], torch.tensor([b - a])).to(model.device)
            alone = row_hidden(model, single)[-1]
            own = model(input_ids=single.tokens[None]).logits[0]
            found += [apart(state, alone), apart(head.logits(alone), own)]
    return float(torch.tensor(found).max())  # max() would lose a NaN


def apart(found: Tensor, wanted: Tensor) -> float:
    """Relative where there is something to be relative to: a head of zeros gives zeros."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-3))


def roots(tokens: Tensor, stop: Tensor) -> Forest:
    """Texts one after the other, without classes."""
    start = torch.nn.functional.pad(stop[:-1], (1, 0))
    sizes = (stop - start).tolist()
    none, positions = torch.full((len(sizes),), -1), torch.cat([torch.arange(n) for n in sizes])
    return Forest(tokens, positions, torch.zeros(len(tokens)), start, stop, none, torch.arange(len(sizes)))
