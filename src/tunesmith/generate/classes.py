"""The "answer" of a model with a class head: one token, the number of the likeliest class."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel

from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits, too_late
from tunesmith.models.forward import hidden_states
from tunesmith.models.probe_rows import class_head, roots
from tunesmith.types import Completion


@torch.no_grad()
def give_classes(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    decode: Callable[[Sequence[int]], str],
    progress: Callable[[int], None] | None = None,
    kept: Kept | None = None,
) -> list[Completion]:
    """Of each text its class, in order, `limits.rows` texts side by side."""
    until = None if limits.deadline_s is None else time.monotonic() + limits.deadline_s
    done: dict[int, Completion] = {}
    for first in range(0, len(prompts), limits.rows):
        rows = range(first, min(first + limits.rows, len(prompts)))
        if kept is not None and all(i in kept.known for i in rows):
            done |= {i: kept.known[i] for i in rows}
            continue
        if until is not None and time.monotonic() > until:
            raise too_late(limits)
        fresh = dict(zip(rows, classes_of(model, [prompts[i] for i in rows], decode)))
        done |= fresh
        if progress is not None:
            progress(len(done))
        if kept is not None:
            kept.keep(fresh)
    return [done[i] for i in range(len(prompts))]


def classes_of(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> list[Completion]:
    """Of texts that are read at once."""
    stop = torch.tensor(list(accumulate(map(len, texts))))
    whole = roots(torch.tensor([token for text in texts for token in text]), stop).to(model.device)
    best = class_head(model).logits(hidden_states(model, whole, "rows")[whole.stop - 1]).log_softmax(-1).max(-1)
    return [
        Completion((number,), (logp,), decode((number,)), True)
        for number, logp in zip(best.indices.tolist(), best.values.tolist())
    ]
