"""Tiny encoders of each family, with a tokenizer of whole words and the usual marks; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tests.runs.tiny_runs import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel

MARKS = ("[PAD]", "<pad>", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LABELS = ("clips", "dog", "fox")
_SHAPE: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (tf.BertConfig, {**_SHAPE, "pad_token_id": 0}),
    "roberta": (tf.RobertaConfig, {**_SHAPE, "pad_token_id": 1, "max_position_embeddings": 66}),
    "distilbert": (
        tf.DistilBertConfig,
        {
            "dim": 24, "hidden_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
            "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
        },
    ),
    "modernbert": (
        tf.ModernBertConfig,
        {
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": 64, "local_attention": 8, "pad_token_id": 0, "bos_token_id": 3,
            "eos_token_id": 4, "cls_token_id": 3, "sep_token_id": 4,
        },
    ),
    "mpnet": (tf.MPNetConfig, {**_SHAPE, "pad_token_id": 1, "max_position_embeddings": 66}),
}  # fmt: skip


def tokenizer(words: Sequence[str] = WORDS) -> Any:
    """[CLS] text [SEP], a token a word; digits and all else are [UNK]."""
    known = {word: i for i, word in enumerate([*MARKS, *words, *map(str, range(10))])}
    plain = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", known["[CLS]"]), ("[SEP]", known["[SEP]"])]
    plain.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]",
    )  # fmt: skip


def body(family: str, seed: int = 0) -> PreTrainedModel:
    """An encoder without a head, its matrices three times as large as usual."""
    config, arguments = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModel.from_config(config(vocab_size=len(tokenizer()), **arguments))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)
    return model.eval()


def folder(path: Path, family: str) -> Path:
    body(family).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@torch.no_grad()
def logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """[n, C] as plain transformers gives them, one text at a time."""
    asked = {"truncation": True, "return_tensors": "pt", "return_token_type_ids": False}
    return torch.stack([model(**tokenizer(text, **asked)).logits[0] for text in texts])


def masked(path: Path, family: str, **shape: Any) -> Path:
    """A folder with a masked-language head, of which the bias shows too."""
    config, arguments = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = tf.AutoModelForMaskedLM.from_config(config(vocab_size=len(tokenizer()), **arguments, **shape))
        with torch.no_grad():
            for parameter in whole.parameters():
                parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    whole.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
