"""Hidden states of a forest, by any layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError, PlanError
from tunesmith.models import before
from tunesmith.models.attention import KERNEL, LAYOUT, NAME, Layout
from tunesmith.models.heads import unwrapped
from tunesmith.models.masked import masked_hidden
from tunesmith.models.padded import leaf_paths, padded_hidden
from tunesmith.models.rotary import check_lengths, reset_rotary, rope_limit
from tunesmith.models.rows import row_hidden
from tunesmith.models.seq2seq import seq2seq_hidden
from tunesmith.types import Forest

LAYOUTS = ("forest", "padded", "seq2seq", "rows", "masked")


def body_of(model: nn.Module) -> nn.Module:
    """The transformers model below the head, adapters included."""
    return unwrapped(model).base_model


@contextmanager
def attention(model: nn.Module, name: str) -> Iterator[None]:
    """Runs the model with transformers' attention of this name, and gives it back its own after."""
    causal = unwrapped(model)
    before = causal.config._attn_implementation
    if before == name:
        yield
        return
    causal.set_attn_implementation(name)
    if causal.config._attn_implementation != name:
        raise ModelError(f"{type(causal).__name__} does not let its attention be swapped; use the padded layout.")
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


@contextmanager
def layers_again(model: nn.Module, layout: str) -> Iterator[None]:
    """Decoder layers keep their input only, and are run again in the backward (Chen et al. 2016, arXiv:1604.06174).

    To be held around forward and backward; the noise of the second run is that of the first.
    """
    causal = unwrapped(model)
    if not causal.supports_gradient_checkpointing:
        raise PlanError(f"{type(causal).__name__} cannot run its layers again; say train.checkpointing: off")
    causal.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with attention(causal, NAME if layout == "forest" else causal.config._attn_implementation):
            yield
    finally:
        causal.gradient_checkpointing_disable()


def hidden_states(model: nn.Module, forest: Forest, layout: str) -> Tensor:
    """Hidden states after the final norm [N, D]. `layout`: "forest" (one flat run of tokens), "padded", "seq2seq",
    "rows" (the state that a class head reads, at the end of each text), or "masked" (the states that foretell the
    tokens of a text from both sides).

    Gradient checkpointing runs layers again in the backward: wrap forward and backward in `layers_again`.
    """
    assert layout in LAYOUTS, f"no layout {layout!r}"
    causal = unwrapped(model)
    limit = rope_limit(causal.config)
    if limit is not None:
        size = (forest.stop - forest.start).tolist()
        check_lengths(limit, [sum(size[s] for s in path) for path in leaf_paths(forest.parent.tolist())])
        reset_rotary(causal)
    if layout == "seq2seq":
        return seq2seq_hidden(causal, forest)
    if layout == "rows":
        return row_hidden(causal, forest)
    if layout == "masked":
        return masked_hidden(causal, forest)
    if layout == "padded":
        return padded_hidden(causal, forest)
    again = causal.is_gradient_checkpointing and causal.training and torch.is_grad_enabled()
    if again and causal.config._attn_implementation != NAME:
        raise ModelError(
            "gradient checkpointing would run the layers again with the model's own attention, which mixes the "
            "examples of a forest. Wrap forward and backward in tunesmith.models.forward.layers_again(model, layout)."
        )
    return _forest_hidden(causal, forest)


def _forest_hidden(causal: PreTrainedModel, forest: Forest) -> Tensor:
    given: dict[str, Any] = {LAYOUT: Layout(forest.start.cpu(), forest.stop.cpu(), forest.parent.cpu())}
    if any(module._compiled_call_impl is not None for module in causal.modules()):
        given[KERNEL] = True  # who compiles layers has a compiler
    with attention(causal, NAME):
        output = causal.base_model(
            input_ids=forest.tokens[None],
            position_ids=forest.positions[None],
            use_cache=False,
            **given,
            **before.given(causal, forest.tokens[None]),
        )
    return output.last_hidden_state[0]
