"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691): rows that stand before every sequence train, and nothing else.

The rows are peft's, and so is what is saved. Here they are tokens of a forest like any others, with ids behind the
model's own: they take the first positions of every root, and the embedding gives them the trained rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import PromptEmbedding, PromptTuningConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import PlanError, did_you_mean
from tunesmith.models.hidden import hidden_states
from tunesmith.models.probe import Probe, small_forest
from tunesmith.types import Forest

NAME, ROWS = "prompt_tuning", "prompt_embeddings"  # of the method, and of the tensor as peft saves it
NUM_TOKENS = 20  # as in most of peft's examples
STARTS = ("SAMPLE_VOCAB", "RANDOM")
OPTIONS = ("num_virtual_tokens", "prompt_tuning_init")


class Prompted(nn.Module):
    """The model's embeddings, and behind their last row those of the prompt."""

    def __init__(self, plain: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.plain = plain
        self.rows = nn.Parameter(rows.to(device=plain.weight.device, dtype=plain.weight.dtype))

    @property
    def weight(self) -> Tensor:
        """Of the model's own, which a head may share."""
        return self.plain.weight

    def forward(self, tokens: Tensor) -> Tensor:
        num = self.plain.weight.shape[0]
        is_own = tokens < num
        embedded = self.plain(torch.where(is_own, tokens, 0))
        rows = self.rows[torch.where(is_own, 0, tokens - num)]
        return torch.where(is_own[..., None], embedded, rows.to(embedded.dtype))


def prompt_config(options: dict[str, Any], model: PreTrainedModel) -> PromptTuningConfig:
    """peft's configuration. Raises PlanError where an option is none that is taken."""
    odd = next((name for name in options if name not in OPTIONS), None)
    if odd is not None:
        near = did_you_mean(odd, OPTIONS)
        raise PlanError(f"adapt.options has {odd!r}; prompt_tuning takes {', '.join(OPTIONS)}.{near}")
    num, start = options.get("num_virtual_tokens", NUM_TOKENS), options.get("prompt_tuning_init", STARTS[0])
    if not isinstance(num, int) or num < 1 or start not in STARTS:
        raise PlanError(
            f"adapt.options for prompt_tuning: num_virtual_tokens is {num!r} and prompt_tuning_init {start!r}; wanted "
            f"a number above 0, and {' or '.join(STARTS)} (rows that begin as those of drawn tokens, or as noise)"
        )
    text = model.config.get_text_config()
    return PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=num, prompt_tuning_init=start, token_dim=text.hidden_size,
        num_transformer_submodules=1, num_attention_heads=text.num_attention_heads, num_layers=text.num_hidden_layers,
        base_model_name_or_path=str(model.config.name_or_path),
    )  # fmt: skip


def put_before(
    model: PreTrainedModel, config: PromptTuningConfig, seed: int
) -> tuple[dict[str, nn.Parameter], tuple[int, ...]]:
    """(live parameters, ids of the prompt's tokens). What is drawn at the start depends on the seed alone."""
    plain: Any = model.get_input_embeddings()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = PromptEmbedding(config, plain).embedding.weight.detach()
    prompted = Prompted(plain, rows)
    model.set_input_embeddings(prompted)
    prompted.requires_grad_(False)
    num = int(plain.weight.shape[0])
    return {ROWS: prompted.rows}, tuple(range(num, num + len(rows)))


def take_away(model: PreTrainedModel) -> None:
    """Give the model its own embeddings back."""
    found = model.get_input_embeddings()
    if isinstance(found, Prompted):
        model.set_input_embeddings(found.plain)


def begun(batch: Forest, ids: Sequence[int]) -> Forest:
    """The forest with these tokens at the start of every root. What is learned, and its order, stay."""
    if not ids:
        return batch
    device, num = batch.tokens.device, len(ids)
    size_S = batch.stop - batch.start
    more_S = num * (batch.parent < 0)
    stop_S = (size_S + more_S).cumsum(0)
    total = batch.num_tokens + int(more_S.sum())
    at_N = torch.arange(batch.num_tokens, device=device) + more_S.cumsum(0).repeat_interleave(size_S)
    is_prompt = torch.ones(total, dtype=torch.bool, device=device).index_fill_(0, at_N, value=False)
    tokens = torch.empty(total, dtype=torch.int64, device=device).index_copy_(0, at_N, batch.tokens)
    positions = torch.empty_like(tokens).index_copy_(0, at_N, batch.positions + num)
    weights = torch.zeros(total, device=device).index_copy_(0, at_N, batch.weights)
    num_roots = int((batch.parent < 0).sum())
    tokens[is_prompt] = torch.tensor(list(ids), device=device).repeat(num_roots)
    positions[is_prompt] = torch.arange(num, device=device).repeat(num_roots)
    return replace(
        batch, tokens=tokens, positions=positions, weights=weights, start=stop_S - size_S - more_S, stop=stop_S
    )


@torch.no_grad()
def try_prompt(model: PreTrainedModel, config: PromptTuningConfig, found: Probe) -> None:
    """PlanError where the model does more with tokens than to embed them, so that the prompt's have no place in it: a
    forest is run with the prompt, and then as plain rows of embeddings. `found`: of the model as it is."""
    if model.config.is_encoder_decoder:
        raise PlanError("adapt.peft prompt_tuning: an encoder-decoder has no place for it here. Use adapt.method: lora")
    forest = small_forest(model)
    _, ids = put_before(model, config, 0)
    try:
        said = hidden_states(model, begun(forest, ids), found.layout)
        first = begun(part(forest), ids)
        wanted = model.base_model(inputs_embeds=model.get_input_embeddings()(first.tokens[None])).last_hidden_state[0]
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise PlanError(
            f"adapt.peft prompt_tuning: {type(model).__name__} does more with tokens than to embed them "
            f"({' '.join(str(error).split())[:200]}). Use adapt.method: lora"
        ) from error
    finally:
        take_away(model)
    apart = float((said[: len(wanted)] - wanted).float().norm() / wanted.float().norm())
    if not apart <= (1e-4 if model.dtype == torch.float32 else 0.1):
        raise PlanError(
            f"adapt.peft prompt_tuning: {type(model).__name__} gives other hidden states for the prompt's tokens than "
            f"for their rows (by {apart:.1g}). Use adapt.method: lora"
        )


def part(forest: Forest) -> Forest:
    """Its first root alone."""
    num = int(forest.stop[0])
    cut = {name: getattr(forest, name)[:num] for name in ("tokens", "positions", "weights")}
    rest = {name: getattr(forest, name)[:1] for name in ("start", "stop", "parent", "owner")}
    return replace(forest, **cut, **rest)
