"""Rotary variants whose angles depend on the longest position of a batch, and what may therefore share one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PretrainedConfig

from tunesmith.errors import DataError
from tunesmith.types import RopeLimit


def rope_limit(config: PretrainedConfig) -> RopeLimit | None:
    """None for rotary variants that look at each position by itself.

    longrope (arXiv:2402.13753) has two sets of angles, below and above the original context; dynamic NTK makes new ones
    for each longest position above it (transformers/modeling_rope_utils.py, `dynamic_rope_update`).
    """
    if not hasattr(config, "rope_parameters") or config.rope_parameters is None:
        return None
    parameters = config.rope_parameters
    kinds = [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]
    limits = []
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            limits.append(RopeLimit(int(kind["original_max_position_embeddings"]), alone=False))
        elif "dynamic" in str(kind.get("rope_type")):
            limits.append(RopeLimit(int(config.max_position_embeddings), alone=True))
    if not limits:
        return None
    return RopeLimit(min(limit.boundary for limit in limits), alone=any(limit.alone for limit in limits))


def check_lengths(limit: RopeLimit | None, lengths: Sequence[int]) -> None:
    """Refuses sequences (lengths in tokens, root to leaf) that must not run together."""
    if limit is None or len(lengths) < 2 or max(lengths) <= limit.boundary:
        return
    if limit.alone or min(lengths) <= limit.boundary:
        raise DataError(
            f"a batch holds sequences of {min(lengths)} to {max(lengths)} tokens, but the model's rotary angles depend "
            f"on the longest one above {limit.boundary} tokens; pack with rope_limit(config), which keeps them apart."
        )


def reset_rotary(model: nn.Module) -> None:
    """Sets dynamic rotary state back to the original context, so that angles do not depend on what ran before."""
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name in [n for n in buffers if n.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            setattr(module, f"{prefix}inv_freq", buffers[name].clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
