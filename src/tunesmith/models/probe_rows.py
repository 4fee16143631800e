"""Tries the layouts of a padded row for each text on a loaded model: texts side by side against one by one, and its
head against its own logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models import masked, rows
from tunesmith.models.chunked import Projection
from tunesmith.models.class_head import ClassHead
from tunesmith.models.heads import Head, evaluating
from tunesmith.models.probe import Probe
from tunesmith.types import Forest

SIZES = (12, 5, 7)  # tokens of the texts that are tried
States = Callable[[PreTrainedModel, Forest], Tensor]  # [N, D]


def probe_rows(model: PreTrainedModel) -> Probe:
    """With a class head. ModelError where the layout does not suit the model."""
    head = replace(ClassHead(model).projection, sigmoid=False)
    worst = proved(model, head, rows.row_hidden, "pooled states")
    return Probe(rows.LAYOUT, worst, "a text is read whole and given a class")


def probe_masked(model: PreTrainedModel) -> Probe:
    """With a masked-language head. ModelError where the layout does not suit the model."""
    worst = proved(model, Head(model, 1.0, None).projection, masked.masked_hidden, "states")
    return Probe(masked.LAYOUT, worst, "hidden tokens are told from the text around them")


def proved(model: PreTrainedModel, head: Projection, states: States, what: str) -> float:
    """The largest difference, where it is no more than rounding."""
    try:
        worst = largest_diff(model, head, states)
        why = f"difference {worst:.1e}"
    except Exception as error:  # whatever an architecture raises, it means: not this layout
        worst, why = float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())}"
    if not worst <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise ModelError(
            f"{type(model).__name__} gives other {what} in a batch than one text at a time, or its logits are not its "
            f"last linear layer on them ({why}). Use another model."
        )
    return worst


def largest_diff(model: PreTrainedModel, head: Projection, states: States) -> float:
    """Relative, of texts side by side to each alone, and of the head to the model's own logits."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    low = min(16, vocabulary // 2)
    tokens = low + (torch.arange(sum(SIZES)) * 7919 + 31) % (vocabulary - low)
    whole = rows.roots(tokens, torch.tensor(SIZES).cumsum(0)).to(model.device)
    found = []
    with evaluating(model):
        together = states(model, whole)
        for a, b in zip(whole.start.tolist(), whole.stop.tolist()):
            single = rows.roots(tokens[a:b], torch.tensor([b - a])).to(model.device)
            alone, own = states(model, single), model(input_ids=single.tokens[None]).logits[0]
            own = own.reshape(-1, own.shape[-1])  # of each place; of a class head those of the last
            found += [apart(together[a:b], alone), apart(head.logits(alone[-len(own) :]), own)]
    return float(torch.tensor(found).max())  # max() would lose a NaN


def apart(found: Tensor, wanted: Tensor) -> float:
    """Relative where there is something to be relative to: a head of zeros gives zeros."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-3))
