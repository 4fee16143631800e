"""The layout of encoders with their masked-language head: a padded row for each text, of which every place has the
state that foretells what stands there.

In a forest a text is the segments that are not learned, one behind the other; each but the last ends with a hidden
token, and what that is in truth hangs under it as a learned segment of one token (data/masking.py). So the state of the
hidden place foretells it as the state before a reply foretells its first token. transformers' heads differ (a dense
layer, a norm, then the vocabulary); what they have in common is that a linear layer comes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.padded import padded_rows
from tunesmith.models.rows import alike, inputs_of, texts_of
from tunesmith.types import Forest

LAYOUT = "masked"


def vocabulary_layer(model: PreTrainedModel) -> nn.Module:
    """The last layer of the masked-language head."""
    found = model.get_output_embeddings()
    if found is None:
        raise ModelError(f"{type(model).__name__} has no layer that gives logits of tokens. Use another model.")
    return found


@contextmanager
def reading_alone(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the layer while the context is open. The layer itself gets none of it: no logits are made of
    tokens that nobody asks about."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, ...]:
        seen.append(given[0])
        return (given[0][..., :0, :],)

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def masked_hidden(model: PreTrainedModel, forest: Forest) -> Tensor:
    """[N, D], of each token of a text what the last layer of the masked-language head reads; zeros elsewhere. A
    beginning that several texts share has the states of one of them: nothing is foretold from it."""
    found: list[tuple[Tensor, Tensor]] = []
    with reading_alone(vocabulary_layer(model)) as seen:
        for group in alike(texts_of(forest)):
            rows = padded_rows(list(group.values()), forest.num_tokens)
            model(**inputs_of(model, forest, rows))
            if not seen:
                raise ModelError(
                    f"{type(model).__name__} makes logits of tokens without a linear layer of its own, which is what "
                    "masked language modelling is computed by here. Use another model."
                )
            state, at = seen.pop(), (rows.where >= 0).nonzero()[:, 0]
            found.append((at.to(state.device), state.flatten(0, 1).index_select(0, rows.where[at].to(state.device))))
    states = found[0][1]
    hidden = states.new_zeros(forest.num_tokens, states.shape[1])
    for at, states in found:
        hidden = hidden.index_copy(0, at, states)
    return hidden
