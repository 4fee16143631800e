"""Small tokenizers as encoder-decoders have them: T5's own class, and a byte-level one framed as BART's."""

from __future__ import annotations

import string
from functools import cache
from typing import Any

from tests.data import chat
from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Tokenizer

WORDS = ("order", "clips", "dog", "fox", "where", "sold", "brown", "quick", "lazy", "jumps", "what", "is", "it", "the")


@cache
def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """`family`: t5 or mt5 (an end behind a text), bart (a beginning before it, too)."""
    if family == "bart":
        return framed("<s> $A </s>")
    letters = string.ascii_letters + string.digits + string.punctuation
    words = [(f"▁{word}", -3.0) for word in WORDS]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    return T5Tokenizer(vocab=[*special, *((c, -6.0) for c in letters), *words], extra_ids=8)


def framed(around: str) -> PreTrainedTokenizerFast:
    """Byte-level, with these special tokens around a text."""
    backend = Tokenizer.from_str(chat.base("bytes"))
    special = ["<s>", "<pad>", "</s>", "<unk>", "en_XX"]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    named = [(text, backend.token_to_id(text)) for text in special if text in around]
    backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def shape(words: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Of a configuration for this tokenizer; replies begin as T5's do (padding) or BART's (the end)."""
    start = words.pad_token_id if words.bos_token_id is None else words.eos_token_id
    return {
        "vocab_size": len(words), "eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id,
        "pad_token_id": words.pad_token_id, "decoder_start_token_id": start,
    }  # fmt: skip
