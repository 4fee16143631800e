"""The "answer" of a model with a class head: one token, the number of the likeliest class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from tunesmith.models.class_head import ClassHead
from tunesmith.models.forward import hidden_states
from tunesmith.models.probe_rows import roots
from tunesmith.types import Completion


@torch.no_grad()
def classes_of(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> list[Completion]:
    """Of texts that are read at once."""
    stop = torch.tensor(list(accumulate(map(len, texts))))
    whole = roots(torch.tensor([token for text in texts for token in text]), stop).to(model.device)
    best = ClassHead(model).logits(hidden_states(model, whole, "rows")[whole.stop - 1]).log_softmax(-1).max(-1)
    return [
        Completion((number,), (logp,), decode((number,)), True)
        for number, logp in zip(best.indices.tolist(), best.values.tolist())
    ]
