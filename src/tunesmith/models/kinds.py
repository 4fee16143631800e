"""What a model is by its configuration: as what transformers opens it, and as what peft knows it."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig


def opener(config: PreTrainedConfig) -> Any:
    """transformers' class that opens such a folder, with its language-modelling head."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def task_type(config: PreTrainedConfig) -> str:
    """As adapter_config.json says it."""
    return "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
