"""Decides the layout of a loaded model by trying it: a small forest against its sequences one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.calls import Calls, count_calls
from tunesmith.models.heads import evaluating, unwrapped
from tunesmith.models.hidden import hidden_states
from tunesmith.models.padded import leaf_paths
from tunesmith.types import Forest

SHORT = 12  # tokens of the probe's prompt where there is no window
LONGEST_WINDOW = 1024  # tokens; a longer window is checked by what the attention is told, not by running past it


@dataclass(frozen=True, slots=True)
class Probe:
    layout: str  # "forest" | "padded" | "seq2seq"
    largest_diff: float  # norm of the worst token's difference to the separate sequences, relative to its own norm
    reason: str


def probe(model: nn.Module) -> Probe:
    """Runs a prompt with two children and a second tree, in eval mode without gradients, through both layouts."""
    causal = unwrapped(model)
    windows = _windows(causal)
    short = [w for w in windows if w <= LONGEST_WINDOW]
    forest = small_forest(causal, max(short, default=0) + SHORT)
    with evaluating(model):
        layout = "seq2seq" if causal.config.is_encoder_decoder else "padded"
        separate = _separate(causal, forest, layout)
        padded, why = _try(causal, forest, separate, layout)
        if layout == "seq2seq":
            reason = "encoder-decoder: the prompt goes to the encoder"
        else:
            far = [w for w in windows if w > LONGEST_WINDOW]
            difference, reason = _try_forest(causal, forest, separate, padded, far)
            if not reason:
                return Probe("forest", difference, "equal to separate sequences")
    if why:
        raise ModelError(
            f"{type(causal).__name__} gives other hidden states in a batch than one sequence at a time "
            f"(forest: {reason}; {layout}: {why}). It can't be tuned with tunesmith; use another model."
        )
    return Probe(layout, padded, reason)


def _windows(model: PreTrainedModel) -> list[int]:
    """Lengths beyond which some layer looks away, in tokens, from the configuration."""
    settings = model.config.to_dict()
    found = [
        settings.get(name) for name in ("sliding_window", "attention_chunk_size", "window_size", "local_window_size")
    ]
    return sorted({int(w) for w in found if isinstance(w, int) and w > 0})


def small_forest(model: PreTrainedModel, prompt: int = SHORT) -> Forest:
    """A prompt with two children of unlike length, and a second root; token ids by a fixed rule."""
    sizes, parent = [prompt, 5, 3, 7, 2], [-1, 0, 0, -1, 3]
    stop = torch.tensor(sizes).cumsum(0)
    start = stop - torch.tensor(sizes)
    offset = torch.tensor([0, prompt, prompt, 0, 7])
    positions = torch.cat([torch.arange(n) + o for n, o in zip(sizes, offset)])
    vocabulary = int(model.config.get_text_config().vocab_size)
    low = min(16, vocabulary // 2)
    tokens = low + (torch.arange(int(stop[-1])) * 7919 + 31) % (vocabulary - low)
    forest = Forest(
        tokens=tokens,
        positions=positions,
        weights=torch.zeros(len(tokens)),
        start=start,
        stop=stop,
        parent=torch.tensor(parent),
        owner=torch.zeros(len(sizes), dtype=torch.int64),
    )
    return forest.to(model.device)


def _separate(model: PreTrainedModel, forest: Forest, layout: str) -> Tensor:
    """Hidden states [N, D] from one call per sequence, without padding."""
    whole: Tensor | None = None
    for path in leaf_paths(forest.parent.tolist()):
        index = torch.cat([torch.arange(int(forest.start[s]), int(forest.stop[s])) for s in path])
        index = index.to(forest.tokens.device)
        sizes = [int(forest.stop[s] - forest.start[s]) for s in path]
        stop = torch.tensor(sizes).cumsum(0)
        single = Forest(
            tokens=forest.tokens[index],
            positions=forest.positions[index],
            weights=forest.weights[index],
            start=stop - torch.tensor(sizes),
            stop=stop,
            parent=torch.arange(-1, len(sizes) - 1),
            owner=torch.zeros(len(sizes), dtype=torch.int64),
        )
        hidden = hidden_states(model, single, layout).float()
        whole = hidden.new_empty(forest.num_tokens, hidden.shape[1]) if whole is None else whole
        whole[index] = hidden
    assert whole is not None
    return whole


def _tolerance(model: PreTrainedModel, noise: float) -> float:
    """What rounding may do. A convolution that mixes neighbours can be as quiet as 2e-5, so the padded layout's own
    difference sets the scale. In bf16 a 135M model is 0.04 from its float32 self in the worst token, and a forest 0.07
    from separate sequences; what is wrong differs by 0.3 to 4."""
    least, most = (5e-6, 1e-4) if model.dtype in (torch.float32, torch.float64) else (3e-2, 0.2)
    return min(most, max(least, 10 * noise))


def _try(
    model: PreTrainedModel, forest: Forest, separate: Tensor, layout: str, noise: float = float("inf")
) -> tuple[float, str]:
    """(largest difference, why not; empty when the layout serves)."""
    try:
        hidden = hidden_states(model, forest, layout).float()
    except Exception as error:  # whatever an architecture raises, it means: not this layout
        return float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())}"
    difference = float(((hidden - separate).norm(dim=1) / separate.norm(dim=1).clamp_min(1e-30)).max())
    if not difference <= _tolerance(model, noise):
        return difference, f"hidden states differ by {difference:.1e}, relative"
    return difference, ""


def _try_forest(
    model: PreTrainedModel, forest: Forest, separate: Tensor, noise: float, long_windows: list[int]
) -> tuple[float, str]:
    with count_calls() as calls:
        difference, reason = _try(model, forest, separate, "forest", noise)
    if not reason and calls.num == 0:
        reason = "the model does not call the attention that was registered"
    return difference, reason or _long_windows_missed(model, calls, long_windows)


def _long_windows_missed(model: PreTrainedModel, calls: Calls, windows: list[int]) -> str:
    """A window too long to run past must at least have been handed to the attention, on each layer that has one."""
    settings = model.config.to_dict()
    if settings.get("use_sliding_window") is False:
        return ""
    kinds = settings.get("layer_types")
    wanted = len(calls.windows) if kinds is None else sum("full" not in str(kind) for kind in kinds)
    for window in windows:
        told = sum(found == window for found in calls.windows)
        if told != wanted:
            return f"a window of {window} tokens reached {told} of {wanted} layers"
    return ""
