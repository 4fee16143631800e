"""Models of a few thousand weights, built from transformers' configurations; nothing is downloaded.

Weights are three times as large as usual and soft-caps small, so that leaving anything out shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import nn
from transformers import PreTrainedModel

VOCABULARY = 61
WINDOW = 6  # tokens; shorter than the prompts of the laws

# Llama's shape and its names for it.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SEQ2SEQ = {**SMALL, "decoder_start_token_id": 0, "is_encoder_decoder": True}


@dataclass(frozen=True)
class Family:
    """A configuration class and its arguments; `mutants` name what a forest law must notice when it is left out."""

    config: Callable[..., Any]
    arguments: dict[str, Any]
    layout: str = "forest"  # what the probe must say
    mutants: tuple[str, ...] = ("scale", "parent")
    is_dense: bool = True


def _like_llama(config: Callable[..., Any], *mutants: str, is_dense: bool = True, **more: Any) -> Family:
    return Family(config, {**COMMON, **more}, mutants=("scale", "parent", *mutants), is_dense=is_dense)


FAMILIES: dict[str, Family] = {
    "llama": _like_llama(tf.LlamaConfig),
    "mistral": _like_llama(tf.MistralConfig, "window", sliding_window=WINDOW),
    "qwen2": _like_llama(tf.Qwen2Config, "window", use_sliding_window=True, **WINDOWED),
    "qwen3": _like_llama(tf.Qwen3Config, "window", use_sliding_window=True, head_dim=8, **WINDOWED),
    "gemma2": _like_llama(
        tf.Gemma2Config,
        "window",
        "cap",
        head_dim=8,
        query_pre_attn_scalar=4,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        **WINDOWED,
    ),
    "gemma3": _like_llama(tf.Gemma3TextConfig, "window", head_dim=8, query_pre_attn_scalar=4, **WINDOWED),
    "phi3": _like_llama(tf.Phi3Config, "window", sliding_window=WINDOW),
    "gpt_neox": Family(tf.GPTNeoXConfig, {**COMMON, "num_key_value_heads": 4}),
    "gpt2": Family(tf.GPT2Config, {**SMALL, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "opt": Family(
        tf.OPTConfig, {**COMMON, "ffn_dim": 32, "word_embed_proj_dim": 24, "dropout": 0.0}, mutants=("parent",)
    ),
    "olmo2": _like_llama(tf.Olmo2Config),
    "granite": _like_llama(
        tf.GraniteConfig,
        attention_multiplier=0.7,
        logits_scaling=3.0,
        residual_multiplier=0.5,
        embedding_multiplier=2.0,
    ),
    "cohere": _like_llama(tf.CohereConfig, logit_scale=0.25),
    "mixtral": _like_llama(
        tf.MixtralConfig, "window", is_dense=False, sliding_window=WINDOW, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen3_moe": _like_llama(tf.Qwen3MoeConfig, is_dense=False, num_experts=4, head_dim=8, **EXPERTS),
    "smollm3": _like_llama(tf.SmolLM3Config, "window", no_rope_layers=[1, 0], use_sliding_window=True, **WINDOWED),
    "starcoder2": _like_llama(
        tf.Starcoder2Config, "window", sliding_window=WINDOW, residual_dropout=0.0, embedding_dropout=0.0
    ),
    "deepseek_v3": Family(
        tf.DeepseekV3Config,
        {
            **COMMON,
            **EXPERTS,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 6,
            "v_head_dim": 8,
        },
        is_dense=False,
    ),
    "gpt_oss": _like_llama(
        tf.GptOssConfig,
        "window",
        "sinks",
        is_dense=False,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        **WINDOWED,
    ),
    "falcon": Family(
        tf.FalconConfig,
        {**SMALL, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
        layout="padded",
    ),
    "bloom": Family(tf.BloomConfig, {**SMALL, "hidden_size": 24, "n_layer": 2, "n_head": 4}, layout="padded"),
    "mpt": Family(tf.MptConfig, {**SMALL, "d_model": 24, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2}, "padded"),
    "gpt_neo": Family(
        tf.GPTNeoConfig,
        {
            **SMALL,
            "hidden_size": 24,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
            "max_position_embeddings": 128,
        },
        "padded",
    ),
    "mamba": Family(
        tf.MambaConfig,
        {**SMALL, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 4},
        "padded",
    ),
    "lfm2": Family(
        tf.Lfm2Config,
        {**COMMON, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "conv_L_cache": 3},
        "padded",
    ),
    "qwen3_next": Family(
        tf.Qwen3NextConfig,
        {
            **COMMON,
            **EXPERTS,
            "head_dim": 8,
            "num_experts": 4,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
        },
        "padded",
        is_dense=False,
    ),
    "t5": Family(
        tf.T5Config, {**SEQ2SEQ, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}, "seq2seq"
    ),
    "mt5": Family(
        tf.MT5Config, {**SEQ2SEQ, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}, "seq2seq"
    ),
    "bart": Family(
        tf.BartConfig,
        {
            **SEQ2SEQ,
            "d_model": 24,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 128,
            "forced_eos_token_id": None,
        },
        "seq2seq",
    ),
}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A tiny random model of a family, in eval mode; `changes` to its configuration."""
    family = FAMILIES[name]
    return from_config(family.config(**{**family.arguments, **changes}), seed, dtype)


def from_config(config: Any, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    auto = tf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else tf.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto.from_config(config, attn_implementation="eager").to(dtype)
        _loud(model)
    return model.eval()


def _loud(model: nn.Module) -> None:
    """Matrices of standard deviation 0.2 or so (3 times the usual for this width); vectors moved off 0 and 1."""
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "sinks" in name:
            spread = 1.0 if "sinks" in name else 0.3
            weight.data += spread * torch.randn_like(weight)
        elif "A_log" not in name:
            weight.data = 3.0 * torch.randn_like(weight) * max(0.07, float(weight.shape[-1]) ** -0.5 / 3)
