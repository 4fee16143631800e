"""A tokenizer as GGUF keeps it: tokens with their kinds, merges or scores, special ids, the name of how it cuts text.

llama.cpp does not read a pre-tokenizer, it knows some by name. The name is found from what the tokenizer in hand does,
so that the file cuts text as training did; a tokenizer that has no name there is refused, never approximated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import ModelError

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# (pattern, ignore_merges) -> llama.cpp's name
SPLITS = {
    (LLAMA3, True): "llama-bpe",
    (LLAMA3, False): "smaug-bpe",
    (QWEN2, False): "qwen2",
    (TEKKEN, True): "tekken",
}
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What of a tokenizer goes into the file."""

    model: str  # "gpt2": byte-level BPE; "llama": SentencePiece's BPE
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]  # gpt2
    scores: tuple[float, ...]  # llama
    add_bos: bool
    add_space_prefix: bool
    special: dict[str, int]  # bos, eos, eot, unk, pad

    def write(self, writer: GGUFWriter, template: str) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.kinds))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        for name, number in self.special.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_space_prefix(self.add_space_prefix)
        writer.add_chat_template(template)


def vocabulary(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], size: int) -> Vocabulary:
    """`size`: rows of the embedding; ids that the tokenizer does not use become unused tokens."""
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise refused(f"is of the kind {model['type']}; only BPE is written here")
    pieces = model.get("byte_fallback", False)
    pre = "default" if pieces else pre_name(state)
    tokens, kinds = token_list(tokenizer, model["vocab"], size, pieces=pieces)
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    merges = () if pieces else tuple(" ".join(pair) for pair in pairs)
    scores = merge_scores(tokens, pairs) if pieces else ()
    bos = tokenizer.bos_token_id
    add_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    special = special_ids(tokenizer, stop_ids)
    kind = "llama" if pieces else "gpt2"
    return Vocabulary(kind, pre, tokens, kinds, merges, scores, add_bos, pieces and prepends_space(state), special)


def refused(what: str) -> ModelError:
    return ModelError(
        f"GGUF: the tokenizer {what}. Export `--to merged` and convert that folder with llama.cpp's "
        "convert_hf_to_gguf.py, which knows more kinds."
    )


def pre_name(state: dict[str, Any]) -> str:
    """llama.cpp's name of what this byte-level tokenizer does before merging."""
    pre = state["pre_tokenizer"] or {}
    steps = pre.get("pretokenizers", [pre])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise refused(f"cuts text with {[s.get('type') for s in steps]}, which has no name in llama.cpp")
    before, merges_first = steps[:-1], not state["model"].get("ignore_merges", False)
    if last.get("use_regex", True) and merges_first:
        if not before:
            return "gpt-2"
        if len(before) == 1 and before[0]["type"] == "Digits" and before[0]["individual_digits"]:
            return "smollm"
    elif len(before) == 1 and before[0]["type"] == "Split" and before[0]["behavior"] == "Isolated":
        pattern = before[0]["pattern"].get("Regex")
        name = SPLITS.get((pattern, not merges_first))
        if name is not None and not before[0]["invert"]:
            return name
    raise refused("cuts text by a pattern that has no name in llama.cpp")


def token_list(
    tokenizer: PreTrainedTokenizerBase, vocab: dict[str, int], size: int, *, pieces: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and kind of every id."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [int(TokenType.UNUSED)] * size
    added = tokenizer.added_tokens_decoder
    if max([*vocab.values(), *added]) >= size:
        raise refused(f"has ids up to {max([*vocab.values(), *added])}, the embedding {size} rows")
    for text, i in vocab.items():
        tokens[i], kinds[i] = text, int(TokenType.NORMAL)
        if pieces and BYTE.fullmatch(text):
            kinds[i] = int(TokenType.BYTE)
    for i, token in added.items():
        tokens[i] = token.content
        kinds[i] = int(TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
    if pieces and tokenizer.unk_token_id is not None:
        kinds[int(tokenizer.unk_token_id)] = int(TokenType.UNKNOWN)
    return tuple(tokens), tuple(kinds)


def merge_scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """SentencePiece's order of merging as scores: llama.cpp joins the pair whose result scores highest first."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault("".join(pair), number)
    return tuple(-float(rank[t]) if t in rank else -float(len(merges)) for t in tokens)


def prepends_space(state: dict[str, Any]) -> bool:
    """Whether a text is read as if a space stood before it."""
    normalizer, pre = state["normalizer"] or {}, state["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(s.get("type") == "Prepend" for s in steps):
        return True
    return any(
        s.get("type") == "Metaspace" and s.get("prepend_scheme", "never") != "never"
        for s in pre.get("pretokenizers", [pre])
    )


def special_ids(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> dict[str, int]:
    """Every stop has to be there: where the end of a turn is not the end of text, it is GGUF's `eot`."""
    eos = tokenizer.eos_token_id
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": stop_ids[0] if eos is None else int(eos),
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }
    turn = next((i for i in stop_ids if i != ids["eos"]), None)
    found = {k: int(v) for k, v in (ids | {"eot": turn}).items() if v is not None}
    left = set(stop_ids) - {found["eos"], found.get("eot")}
    if left:
        raise refused(f"has {len(stop_ids)} stops; a GGUF file names two")
    return found
