"""A model with more tokens: a folder of its own, which is the base of a run that trains them.

A new row is the mean of all others, in the input embeddings and in the head (Hewitt 2021, "Initializing new word
embeddings for pretrained language models"): its logit is then no larger than the largest of the others, so what the
model says of other texts hardly moves. Rows that are drawn at random can take the whole probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoConfig

from tunesmith.errors import InputError
from tunesmith.files import publish_folder, write_json
from tunesmith.models.bars import no_bars
from tunesmith.models.catalogue import NEW_TOKENS, locate
from tunesmith.models.load import Base, load, opening, weights_digest


@dataclass(frozen=True, slots=True)
class Grown:
    """What was written. `ids`: of the tokens, in their order."""

    folder: Path
    ids: tuple[int, ...]
    num_rows: int  # of the embeddings, with rows that no token has
    digest: str


def add_tokens(name: str, tokens: Sequence[str], final: Path) -> Grown:
    """Write the model with these tokens into a new folder, in the number format that it is stored in. Raises InputError
    where a token is none that could be added."""
    if final.exists():
        raise InputError(f"{final} is there already; name a folder that is new")
    located = locate(name)
    with opening(name, located.folder, "configuration"):
        config = AutoConfig.from_pretrained(located.folder, trust_remote_code=False, local_files_only=True)
    stored = config.get_text_config().dtype
    base = load(name, stored if isinstance(stored, torch.dtype) else torch.float32)
    refuse_tokens(base, tokens)
    num_before = len(base.tokenizer)
    base.tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids = tuple(int(base.tokenizer.convert_tokens_to_ids(token)) for token in tokens)  # type: ignore[arg-type]
    grow(base.model, ids, num_before)
    shown = ", ".join(tokens[:8]) + (" …" if len(tokens) > 8 else "")
    note = (
        f"{len(tokens)} tokens were added to {located.base_model} ({shown}): "
        "the base of this comparison reads and writes them by rows that are the mean of all others. Against the model "
        "that does not know them: tunesmith evaluate RUN --against, with the name of that"
    )
    facts = {
        "base_model": located.base_model, "licence": located.licence, "base_digest": base.digest,
        "tokens": [*located.new_tokens, *tokens], "ids": ids, "note": "; ".join(filter(None, (note, located.note))),
    }  # fmt: skip

    def fill(folder: Path) -> None:
        with no_bars():
            base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        write_json(folder / NEW_TOKENS, facts)

    publish_folder(fill, final)
    return Grown(final, ids, len(by_token(base.model)[0]), weights_digest(final))


def refuse_tokens(base: Base, tokens: Sequence[str]) -> None:
    if base.by_head:
        raise InputError(f"{base.located.name} reads texts and writes none; tokens are added to models that write")
    known = base.tokenizer.get_vocab()
    for token in tokens:
        if not token or token != token.strip():
            raise InputError(f"{token!r} is no token that could be added: wanted a text without blanks at its ends")
        ids = base.tokenizer(token, add_special_tokens=False)["input_ids"]
        if token in known or (len(ids) == 1 and ids[0] != base.tokenizer.unk_token_id):
            raise InputError(f"{token!r} is one token of {base.located.name} already; leave it out")
    if not tokens or len(set(tokens)) < len(tokens):
        raise InputError("wanted one token or more, each once")


@torch.no_grad()
def grow(model: Any, ids: Sequence[int], num_known: int) -> None:
    """Give these ids rows that are the mean of the first `num_known`, wherever the model has a row for each token."""
    if max(ids) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    for tensor in by_token(model):
        tensor[list(ids)] = tensor[:num_known].double().mean(0).to(tensor)


def by_token(model: Any) -> list[Tensor]:
    """Tensors [V, D] or [V] with a row for each token: the input embeddings, and the head with its bias where they are
    its own."""
    body, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None:  # a class head, which has rows for classes
        return [body.weight]
    own = [head.weight] if head.weight is not body.weight else []
    biases = [head.bias] if hasattr(head, "bias") and head.bias is not None else []
    return [body.weight, *own, *biases]
