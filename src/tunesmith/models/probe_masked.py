"""Tries the masked layout on a loaded model: texts side by side against one by one, and its head against its logits."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.heads import Head, evaluating
from tunesmith.models.masked import LAYOUT, masked_hidden
from tunesmith.models.probe import Probe
from tunesmith.models.probe_rows import SIZES, apart, roots


def masked_head(model: PreTrainedModel) -> Head:
    return Head(model, 1.0, None)


def probe_masked(model: PreTrainedModel) -> Probe:
    """ModelError where the layout does not suit the model."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    low = min(16, vocabulary // 2)
    tokens = low + (torch.arange(sum(SIZES)) * 7919 + 31) % (vocabulary - low)
    whole = roots(tokens, torch.tensor(SIZES).cumsum(0)).to(model.device)
    head, worst = masked_head(model), 0.0
    with evaluating(model):
        together = masked_hidden(model, whole)
        for a, b in zip(whole.start.tolist(), whole.stop.tolist()):
            single = roots(tokens[a:b], torch.tensor([b - a])).to(model.device)
            alone = masked_hidden(model, single)
            own = model(input_ids=single.tokens[None]).logits[0]
            worst = max(worst, apart(together[a:b], alone), apart(head.logits(alone), own))
    if not worst <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 5e-2):
        raise ModelError(
            f"{type(model).__name__} gives other states in a batch than one text at a time, or its logits are not its "
            f"last linear layer on them (difference {worst:.1e}). Use another model."
        )
    return Probe(LAYOUT, worst, "hidden tokens are told from the text around them")
