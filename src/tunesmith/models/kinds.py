"""What a model is by its configuration: as what transformers opens it, and as what peft knows it."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

# auto: what the configuration is for; classes: with a class head, whatever it is; masked: encoders with their
# masked-language head; scores: decoders with a head of one output, a reward model
Door = Literal["auto", "classes", "masked", "scores"]
CLASSES = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())
MASKED = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values())


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether it reads a text in both directions and writes none: BERT, RoBERTa, DistilBERT, ModernBERT, MPNet …"""
    is_masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return is_masked and not config.is_encoder_decoder and not config.to_dict().get("is_decoder", False)


def opener(config: PreTrainedConfig, door: Door = "auto") -> Any:
    """transformers' class that opens such a folder, with its language-modelling head or its class head."""
    if door == "masked" and is_encoder(config):
        return AutoModelForMaskedLM
    if door in ("classes", "scores") or is_encoder(config) or CLASSES & {*(config.architectures or ())}:
        return AutoModelForSequenceClassification
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def has_classes(model: nn.Module) -> bool:
    """Whether a loaded model ends in a class head."""
    return type(model).__name__ in CLASSES


def has_masked_head(model: PreTrainedModel) -> bool:
    """Whether a loaded model tells hidden tokens of a text from both sides; a decoder and an encoder-decoder do not."""
    return is_encoder(model.config) and type(model).__name__ in MASKED


def task_type(config: PreTrainedConfig) -> str:
    """As adapter_config.json says it, of a model that writes."""
    return "SEQ_2_SEQ_LM" if config.is_encoder_decoder else "CAUSAL_LM"
