"""Small tokenizers with the control tokens of real chat templates. Nothing is downloaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = tuple(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
TEXT = [
    "The quick brown fox jumps over the lazy dog, and then the dog asks: where is my order?",
    "user assistant system model SYS INST USER ASSISTANT Instruction Response You are a helpful assistant.",
    "How many clips did Natalia sell altogether in April and May? She sold 48/2 = 24 clips.\n\nHello there!\n",
    "im_start im_end endoftext end start message channel final analysis think tool_call return",
]


@dataclass(frozen=True)
class Family:
    template: str
    special: tuple[str, ...]
    text_tokens: tuple[str, ...]  # added, not special
    bos: str
    eos: str


@cache
def family(name: str) -> Family:
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    head = dict(re.findall(r"(tokens|text_tokens|bos|eos):([^\n]*?)(?= -#}|\n)", template.partition("-#}")[0] + "-#}"))
    words = {key: tuple(value.split()) for key, value in head.items()}
    return Family(template, words["tokens"], words["text_tokens"], "".join(words["bos"]), "".join(words["eos"]))


@cache
def base(kind: str) -> str:
    """A byte-level BPE as of GPT-2 and Llama 3, or one that puts ▁ before a text as Llama 2's does. JSON."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "metaspace"))
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fallback = [f"<0x{i:02X}>" for i in range(256)]
        steps = [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
        tokenizer.decoder = decoders.Sequence(steps)
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=fallback, initial_alphabet=["▁"], show_progress=False
        )
    tokenizer.train_from_iterator(TEXT, trainer)
    if kind != "bytes":  # the trainer's special tokens are plain entries of the vocabulary, as in Llama 2
        state = Tokenizer.from_str(tokenizer.to_str())
        vocab = state.get_vocab(with_added_tokens=False)
        merges = _merges(tokenizer)
        plain = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
        plain.normalizer, plain.decoder = tokenizer.normalizer, tokenizer.decoder
        tokenizer = plain
    return tokenizer.to_str()


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]


@cache
def tokenizer(name: str, kind: str = "bytes") -> PreTrainedTokenizerFast:
    """The family's template on a small tokenizer that has its control tokens. `kind`: "bytes" | "metaspace"."""
    found = family(name)
    backend = Tokenizer.from_str(base(kind))
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in found.special])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in found.text_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=found.template,
        bos_token=found.bos or None,
        eos_token=found.eos or None,
    )
