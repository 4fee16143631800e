"""A longer context than the model was made for: its rotary angles by another of transformers' own formulas.

Only the configuration is ours to write, so that any program that reads it computes the same: position interpolation
(Chen et al. 2023, arXiv:2306.15595) is its type "linear", YaRN (Peng et al. 2023, arXiv:2309.00071) "yarn", Llama 3.1's
way (Dubey et al. 2024, arXiv:2407.21783) "llama3". NTK-aware scaling (bloc97 2023; section 3.1 of the YaRN paper) is
another base of the angles. "dynamic" is not taken: its angles depend on the longest sequence of a batch.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.errors import PlanError

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # as in Llama 3.1 to 3.3
FIXED = ("attention_factor", "mscale", "mscale_all_dim")  # YaRN's temperature, where somebody has set it by hand
WHOLE, LOCAL = "full_attention", "sliding_attention"  # kinds of layers that have angles of their own (Gemma 3)
OUT = "It cannot be made longer here: leave adapt.context out, or take a model with plain rotary angles"


@dataclass(frozen=True, slots=True)
class Context:
    """A context window that is longer than the base's own."""

    tokens: int | None = None  # longest sequence that the model is made for; null: the base's own, nothing changes
    # how its rotary angles are stretched: position interpolation, NTK-aware, YaRN, or as Llama 3.1 does
    method: Literal["linear", "ntk", "yarn", "llama3"] = "yarn"

    @property
    def word(self) -> str:
        """Of keys and names; "" where nothing changes."""
        return "" if self.tokens is None else f"{self.method}{self.tokens}"


def own_tokens(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model was made for; None where its configuration names none."""
    text = config.get_text_config()
    said = text.max_position_embeddings if hasattr(text, "max_position_embeddings") else None
    return int(said) if said and said > 0 else None


def angles_of(config: PretrainedConfig) -> list[dict[str, Any]]:
    """The rotary parameters that reach over the whole context, to be changed in place. Layers that look back no further
    than a window keep theirs: no distance in them is longer than it was."""
    text = config.get_text_config()
    found = (text.rope_parameters if hasattr(text, "rope_parameters") else None) or {}
    by_kind = {kind: part for kind, part in found.items() if isinstance(part, dict)}
    if not by_kind:
        return [found] if found.get("rope_type") else []
    return [by_kind[WHOLE]] if WHOLE in by_kind and set(by_kind) <= {WHOLE, LOCAL} else []


def rotary_dim(config: PretrainedConfig, angles: dict[str, Any]) -> int:
    """Channels of a head that are turned, as transformers counts them."""
    text = config.get_text_config()
    head = text.head_dim if hasattr(text, "head_dim") else None
    return int((head or text.hidden_size // text.num_attention_heads) * angles.get("partial_rotary_factor", 1.0))


def extended(config: PretrainedConfig, context: Context) -> PretrainedConfig:
    """A copy with the angles and the length of this context; the very same object where nothing changes, as at factor
    1. To be asked after `check_context`."""
    own = own_tokens(config)
    if own is None or context.tokens in (None, own):
        return config
    assert context.tokens is not None
    longer = deepcopy(config)
    text = longer.get_text_config()
    for angles in angles_of(longer):
        stretch(angles, context.method, context.tokens / own, own, rotary_dim(longer, angles))
        if hasattr(text, "original_max_position_embeddings"):  # Phi-3's, which transformers reads before that of angles
            text.original_max_position_embeddings = angles.get("original_max_position_embeddings", own)
    text.max_position_embeddings = context.tokens
    return longer


def stretch(angles: dict[str, Any], method: str, factor: float, own: int, dim: int) -> None:
    """Write the method into rotary parameters, in place. What was stretched by it before is stretched further, from the
    context that it was first made for."""
    if method == "ntk":  # b' = b * s^(d / (d - 2)): the slowest angle as if interpolated, the fastest as it was
        angles["rope_theta"] = float(angles["rope_theta"]) * factor ** (dim / max(dim - 2, 1))
        return
    angles["rope_type"] = method
    angles["factor"] = float(angles.get("factor", 1.0)) * factor
    if method != "linear":
        angles.setdefault("original_max_position_embeddings", own)
    if method == "llama3":
        for name, value in LLAMA3.items():
            angles.setdefault(name, value)


def check_context(model: nn.Module, config: PretrainedConfig, context: Context) -> None:
    """PlanError where this model cannot be given this context."""
    if context.tokens is None:
        return
    name, own, angles = type(model).__name__, own_tokens(config), angles_of(config)
    if own is None or not angles or config.is_encoder_decoder or not rotary_modules(model):
        raise PlanError(
            f"adapt.context: {name} is no decoder with rotary embeddings, which could be stretched to more tokens. "
            "Leave adapt.context out, or take one that is (Llama, Qwen, Mistral, Gemma, Phi and others)"
        )
    if context.tokens < own:
        raise PlanError(
            f"adapt.context.tokens is {context.tokens}; {name} was made for {own}, and a context is not made shorter. "
            "Leave it out, and say data.max_tokens for shorter examples"
        )
    for part in angles:
        before = part["rope_type"]
        known = "default" if context.method == "ntk" else context.method
        if before not in ("default", known):
            way = f"Say adapt.context.method: {before}" if before in ("linear", "yarn", "llama3") else OUT
            raise PlanError(
                f"adapt.context.method is {context.method}, and the rotary angles of this model are stretched by "
                f"{before} already: two of them on top of each other are no method that anybody knows. {way}"
            )
        fixed = [key for key in FIXED if part.get(key) is not None]
        if fixed:
            raise PlanError(
                f"adapt.context: this model's configuration sets {', '.join(fixed)} of its rotary angles by hand, "
                f"which belongs to the context that it has. {OUT}"
            )
    if not is_read_back(extended(config, context)):
        raise PlanError(
            f"adapt.context.method is {context.method}, which the configuration of {name} does not take. Say "
            "adapt.context.method: ntk, which is another base of its angles"
        )


def is_read_back(config: PretrainedConfig) -> bool:
    """Whether the angles are the same after the configuration was written and read; Phi-3's knows one type alone."""
    try:
        return angles_of(type(config).from_dict(config.to_dict())) == angles_of(config)
    except (StrictDataclassError, ValueError, KeyError):
        return False


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that make angles from a configuration."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "config")
        and not isinstance(module, PreTrainedModel)
        and any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    ]


Held = tuple[dict[str, Tensor], dict[str, float]]


def held(module: nn.Module) -> Held:
    """The angles of a rotary module, and the numbers that it multiplies their sines and cosines with."""
    angles = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    return angles, {name: value for name, value in vars(module).items() if name.endswith("attention_scaling")}


class Rotary:
    """The rotary modules of a live model, which hold the angles of the base or, as long as a tenant that was given a
    longer context is live, those of that."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._now = model, Context()
        self._own: list[Held] | None = None  # bit by bit as they were loaded

    @torch.no_grad()
    def put(self, context: Context | None) -> None:
        """None: the base's own."""
        wanted = context or Context()
        if wanted == self._now:
            return
        modules: Any = rotary_modules(self._model)
        if self._own is None:
            self._own = [held(module) for module in modules]
        for module, own in zip(modules, self._own, strict=True):
            longer = extended(module.config, wanted)
            buffers, scales = own if longer is module.config else held(type(module)(longer))
            for name, values in buffers.items():
                getattr(module, name).copy_(values)
            vars(module).update(scales)
        self._now = wanted
