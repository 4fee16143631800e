"""The layout of models that read a text whole and give it a class: a padded row for each text.

In a forest the text is what stands above a learned segment, and the learned segment is its class: one "token", the
number of a label; or, where several labels may fit, a "token" for each of them, its no or its yes. All are foretold
from the state that the model's own head pools, which stands at the text's last place. So whatever works on a reply
works on a class: losses, scores, regularisers. An encoder sees all of a text at once, so a prefix that several examples
share is stored once in the forest and computed in each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.models.class_head import last_linear
from tunesmith.models.padded import Rows, padded_rows
from tunesmith.types import Forest

LAYOUT = "rows"
LEAST_FILLED = 0.7  # of a group's longest text that its shortest has


def texts_of(forest: Forest) -> dict[int, list[tuple[int, int]]]:
    """Of each text the place of its last token in the forest, and its runs of tokens."""
    start, stop, parent = forest.start.tolist(), forest.stop.tolist(), forest.parent.tolist()
    learned = torch.nn.functional.pad((forest.weights != 0).cumsum(0), (1, 0)).tolist()
    texts = [s for s, above in enumerate(parent) if above < 0 or learned[stop[s]] == learned[start[s]]]
    going_on = {parent[s] for s in texts}
    found = {}
    for last in (s for s in texts if s not in going_on):
        path = [last]
        while parent[path[-1]] >= 0:
            path.append(parent[path[-1]])
        found[stop[last] - 1] = [(start[s], stop[s]) for s in reversed(path)]
    return found


def roots(tokens: Tensor, stop: Tensor) -> Forest:
    """Texts one after the other, without classes."""
    start = torch.nn.functional.pad(stop[:-1], (1, 0))
    sizes = (stop - start).tolist()
    none, positions = torch.full((len(sizes),), -1), torch.cat([torch.arange(n) for n in sizes])
    return Forest(tokens, positions, torch.zeros(len(tokens)), start, stop, none, torch.arange(len(sizes)))


def inputs_of(model: PreTrainedModel, forest: Forest, rows: Rows) -> dict[str, Tensor]:
    """What the model is called with. Padding is the model's own token: some count positions by it."""
    device, pad = forest.tokens.device, model.config.get_text_config().pad_token_id
    mask = rows.mask.to(device)
    tokens = forest.tokens[rows.token.to(device)]
    return {"input_ids": torch.where(mask > 0, tokens, 0 if pad is None else pad), "attention_mask": mask}


@contextmanager
def seeing(body: nn.Module) -> Iterator[list[Tensor]]:
    """The last hidden states that a model's body gives while the context is open."""
    seen: list[Tensor] = []
    handle = body.register_forward_hook(lambda _, __, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def reading(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the layer while the context is open."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0])

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def alike(texts: dict[int, list[tuple[int, int]]]) -> Iterator[dict[int, list[tuple[int, int]]]]:
    """The texts in groups of about one length, the longest first: those that a forest packs together differ, and each
    group is padded by itself."""
    size = {at: sum(stop - start for start, stop in runs) for at, runs in texts.items()}
    group: dict[int, list[tuple[int, int]]] = {}
    for at in sorted(texts, key=lambda at: (-size[at], at)):
        if group and size[at] < LEAST_FILLED * size[next(iter(group))]:
            yield group
            group = {}
        group[at] = texts[at]
    if group:
        yield group


def both_states(model: PreTrainedModel, forest: Forest) -> tuple[Tensor, Tensor, Tensor]:
    """(place of each text's last token in the forest [R], the state that the class head pools of it [R, D], the mean of
    the body's last hidden states over its tokens [R, D'])."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    with reading(last_linear(model)[1]) as pooled, seeing(model.base_model) as bodies:
        for group in alike(texts_of(forest)):
            inputs = inputs_of(model, forest, padded_rows(list(group.values()), forest.num_tokens))
            model(**inputs, **more)
            state, body, mask = pooled.pop(), bodies.pop(), inputs["attention_mask"][:, :, None]
            if state.ndim == 3:  # a head on each token, of which transformers takes the last that is no padding
                pad = model.config.get_text_config().pad_token_id
                place = torch.arange(state.shape[1], device=state.device)
                last = (place * (inputs["input_ids"] != pad)).argmax(-1)
                state = state[torch.arange(len(state), device=state.device), last]
            found.append((torch.tensor(list(group), device=state.device), state, (body * mask).sum(1) / mask.sum(1)))
    at, states, means = (torch.cat(parts) for parts in zip(*found))
    return at, states, means


def row_hidden(model: PreTrainedModel, forest: Forest) -> Tensor:
    """[N, D], the pooled state of each text at the place of its last token and in its answer, all of whose tokens are
    foretold from it; zeros elsewhere."""
    at, states, _ = both_states(model, forest)
    hidden = states.new_zeros(forest.num_tokens, states.shape[1]).index_copy(0, at, states)
    size = forest.stop - forest.start
    above_N = (forest.stop[forest.parent.clamp_min(0)] - 1).repeat_interleave(size, output_size=forest.num_tokens)
    return torch.where((forest.weights != 0)[:, None], hidden[above_N], hidden)
