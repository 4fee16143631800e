"""The "answer" of a model with a class head: one token, the number of the likeliest class; or, where several classes
may fit a text, the likelier of no and yes for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from tunesmith.models.class_head import ClassHead, gives_several
from tunesmith.models.forward import hidden_states
from tunesmith.models.rows import roots
from tunesmith.types import Completion


@torch.no_grad()
def classes_of(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> list[Completion]:
    """Of texts that are read at once."""
    stop = torch.tensor(list(accumulate(map(len, texts))))
    whole = roots(torch.tensor([token for text in texts for token in text]), stop).to(model.device)
    logits = ClassHead(model).logits(hidden_states(model, whole, "rows")[whole.stop - 1])
    if gives_several(model):
        logp, best = logits.unflatten(-1, (-1, 2)).max(-1)
        best = best + 2 * torch.arange(best.shape[1], device=best.device)
    else:
        logp, best = logits.log_softmax(-1).max(-1, keepdim=True)
    return [
        Completion(tuple(tokens), tuple(nats), decode(tokens), True)
        for tokens, nats in zip(best.tolist(), logp.tolist())
    ]
