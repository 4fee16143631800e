"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691), p-tuning (Liu et al. 2021, arXiv:2103.10385) and prefix tuning
(Li and Liang 2021, arXiv:2101.00190): what stands before every sequence trains, and nothing else.

The numbers are peft's, and so is what is saved; of p-tuning the network that makes them is saved beside them, so that a
run can go on. Here they are tokens of a forest like any others, with ids behind the model's own (`before`): they take
the first positions of every root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft import (
    PeftModelForCausalLM,
    PeftType,
    PrefixEncoder,
    PrefixTuningConfig,
    PromptEmbedding,
    PromptEncoder,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from peft.utils.other import _prepare_prompt_learning_config
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.errors import PlanError, did_you_mean
from tunesmith.models.before import Encoded, Prefixed, Prompted
from tunesmith.models.hidden import hidden_states
from tunesmith.models.probe import Probe, small_forest
from tunesmith.types import Forest

PROMPT, PREFIX, P_TUNING = "prompt_tuning", "prefix_tuning", "p_tuning"  # the methods
ROWS, NETWORK = "prompt_embeddings", "prompt_encoder."  # on disk: the rows, and how the tensors that make them begin
NUM_TOKENS = 20  # as in most of peft's examples
STARTS = ("SAMPLE_VOCAB", "RANDOM")
# Of a prefix's noise while it is tried in 16 bits: as it is, rounding alone moves the states of SmolLM2 (30 layers) by
# 0.6 of their size; at 0.3 by 0.04, and a prefix that one layer lacks by 0.7.
QUIET = 0.3
OPTIONS = {
    PROMPT: ("num_virtual_tokens", "prompt_tuning_init"),
    PREFIX: ("num_virtual_tokens", "init_weights"),
    P_TUNING: ("num_virtual_tokens", "encoder_hidden_size"),
}
Config = PromptTuningConfig | PrefixTuningConfig | PromptEncoderConfig


def prompt_config(name: str, options: dict[str, Any], model: PreTrainedModel) -> Config:
    """peft's configuration. Raises PlanError where an option is none that is taken."""
    odd = next((option for option in options if option not in OPTIONS[name]), None)
    if odd is not None:
        near = did_you_mean(odd, OPTIONS[name])
        raise PlanError(f"adapt.options has {odd!r}; {name} takes {', '.join(OPTIONS[name])}.{near}")
    num = options.get("num_virtual_tokens", NUM_TOKENS)
    for option in ("num_virtual_tokens", "encoder_hidden_size"):
        value = options.get(option, NUM_TOKENS)
        if not isinstance(value, int) or value < 1:
            raise PlanError(f"adapt.options.{option} is {value!r}; {name} wants a number above 0")
    about: dict[str, Any] = {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(model.config.name_or_path)}
    if name == PREFIX:
        start = options.get("init_weights")
        if start not in (None, "zero"):
            raise PlanError(f"adapt.options.init_weights is {start!r}; prefix_tuning wants zero, or none for noise")
        config = PrefixTuningConfig(num_virtual_tokens=num, init_weights=start, num_transformer_submodules=1, **about)
        try:
            return cast(PrefixTuningConfig, _prepare_prompt_learning_config(config, model.config))
        except ValueError as error:
            raise PlanError(f"adapt.peft {name}: peft does not know {type(model).__name__} ({error})") from error
    start, text = options.get("prompt_tuning_init", STARTS[0]), model.config.get_text_config()
    about |= {"token_dim": text.hidden_size, "num_transformer_submodules": 1, "num_layers": text.num_hidden_layers}
    about["num_attention_heads"] = text.num_attention_heads
    if name == P_TUNING:
        width = options.get("encoder_hidden_size", text.hidden_size)
        return PromptEncoderConfig(num_virtual_tokens=num, encoder_hidden_size=width, **about)
    if start not in STARTS:
        raise PlanError(
            f"adapt.options.prompt_tuning_init is {start!r}; wanted {' or '.join(STARTS)} (rows that begin as those of "
            "drawn tokens, or as noise)"
        )
    return PromptTuningConfig(num_virtual_tokens=num, prompt_tuning_init=start, **about)


def name_of(config: Config) -> str:
    return PeftType(config.peft_type).value.lower()


def num_weights(config: Config) -> int:
    """That train."""
    if isinstance(config, PromptTuningConfig):
        return int(config.num_virtual_tokens * config.token_dim)
    with torch.device("meta"):
        made: Any = PrefixEncoder(config) if isinstance(config, PrefixTuningConfig) else PromptEncoder(config)
        return sum(p.numel() for p in made.parameters())


@torch.no_grad()
def rows_of(model: PreTrainedModel) -> Tensor:
    """What stands before every sequence now, in the precision in which it answers."""
    found = model.get_input_embeddings()
    assert isinstance(found, Prompted), "nothing was put before"
    return found.made()


def put_before(model: PreTrainedModel, config: Config, seed: int) -> tuple[dict[str, nn.Parameter], tuple[int, ...]]:
    """(live parameters, ids of the tokens). What is drawn at the start depends on the seed alone."""
    plain: Any = model.get_input_embeddings()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(config, PromptEncoderConfig):
            prompted: Prompted = Encoded(plain, PromptEncoder(config), config.num_virtual_tokens)
        elif isinstance(config, PrefixTuningConfig):
            prompted = Prefixed(plain, PrefixEncoder(config).embedding.weight.detach())
        else:
            prompted = Prompted(plain, PromptEmbedding(config, plain).embedding.weight.detach())
    model.set_input_embeddings(prompted)
    prompted.requires_grad_(False)
    num = int(plain.weight.shape[0])
    live = (
        {ROWS: prompted.rows}
        if not isinstance(prompted, Encoded)
        else {f"{NETWORK}{n}": p for n, p in prompted.network.named_parameters()}
    )
    return live, tuple(range(num, num + config.num_virtual_tokens))


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
def try_prompt(model: PreTrainedModel, config: Config, found: Probe) -> None:
    """PlanError where this model has no place for it: a forest is run with it, and its first root by the model's own
    attention, a prompt as plain rows of embeddings, a prefix as peft gives it. `found`: of the model as it is."""
    name = name_of(config)
    if model.config.is_encoder_decoder:
        raise PlanError(f"adapt.peft {name}: an encoder-decoder has no place for it here. Use adapt.method: lora")
    if name == PREFIX and found.layout != "forest":
        raise PlanError(
            f"adapt.peft {name}: its keys and values stand in forest attention, and {type(model).__name__} runs in the "
            f"{found.layout} layout ({found.reason}). Use adapt.peft: prompt_tuning, or adapt.method: lora"
        )
    forest = small_forest(model)
    is_whole = model.dtype == torch.float32
    live, ids = put_before(model, config, 0)
    if name == PREFIX and not is_whole:
        live[ROWS].mul_(QUIET)
    try:
        said = hidden_states(model, begun(forest, ids), found.layout)[: int(forest.stop[0]) + len(ids)]
        wanted = by_peft(model, config, live[ROWS], part(forest)) if name == PREFIX else embedded(model, forest, ids)
    except (IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise PlanError(
            f"adapt.peft {name}: {type(model).__name__} does more with tokens than to embed them, or its keys are not "
            f"as peft makes them ({' '.join(str(error).split())[:200]}). Use adapt.method: lora"
        ) from error
    finally:
        take_away(model)
    said = said[len(said) - len(wanted) :]
    apart = float((said - wanted).float().norm() / wanted.float().norm())
    if not apart <= (1e-4 if is_whole else 0.2):
        raise PlanError(
            f"adapt.peft {name}: {type(model).__name__} gives other hidden states here than by peft (by {apart:.1g}). "
            "Use adapt.method: lora"
        )


def embedded(model: PreTrainedModel, forest: Forest, ids: Sequence[int]) -> Tensor:
    """Hidden states of the first root with the prompt before it, as rows of embeddings."""
    tokens = begun(part(forest), ids).tokens[None]
    found: Tensor = model.base_model(inputs_embeds=model.get_input_embeddings()(tokens)).last_hidden_state[0]
    return found


def by_peft(model: PreTrainedModel, config: Config, rows: Tensor, first: Forest) -> Tensor:
    """Hidden states of a root behind the prefix that peft makes of the rows."""
    take_away(model)
    wrapped: Any = PeftModelForCausalLM(model, config)
    wrapped.prompt_encoder.default.embedding.weight.copy_(rows)
    past = wrapped.get_prompt(1)
    found: Tensor = model.base_model(input_ids=first.tokens[None], past_key_values=past).last_hidden_state[0]
    return found


def part(forest: Forest) -> Forest:
    """Its first root alone."""
    num = int(forest.stop[0])
    cut = {name: getattr(forest, name)[:num] for name in ("tokens", "positions", "weights")}
    rest = {name: getattr(forest, name)[:1] for name in ("start", "stop", "parent", "owner")}
    return replace(forest, **cut, **rest)
