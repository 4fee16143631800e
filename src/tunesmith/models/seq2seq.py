"""Encoder-decoders (T5, mT5, Flan-T5, BART): the prompt is read by the encoder, the reply is written by the decoder.

The layout "seq2seq" of a forest: right-padded rows for both stacks, with their masks. A prompt that has several replies
(labels, a preferred and a dispreferred one) is encoded once. The decoder is given its start token and the reply without
its last token (teacher forcing), as transformers does with `labels=` (Raffel et al. 2020, arXiv:1910.10683, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.padded import leaf_paths, padded_rows
from tunesmith.types import Forest


def start_token(model: PreTrainedModel) -> int:
    """What the decoder begins with. Raises ModelError where the configuration does not say."""
    found = model.config.to_dict().get("decoder_start_token_id")
    if found is None:
        raise ModelError(
            f"the configuration of {type(model).__name__} has no decoder_start_token_id, with which every reply "
            "begins; set it in config.json (0, the padding, for T5)"
        )
    return int(found)


def asking(model: PreTrainedModel, prompt: Sequence[int], begun: Sequence[int] = ()) -> dict[str, Any]:
    """What a model of either kind is given so that its last logits are those behind the prompt and what was `begun` of
    the answer."""
    row = lambda tokens: torch.tensor([tokens], device=model.device)
    if not model.config.is_encoder_decoder:
        return {"input_ids": row([*prompt, *begun]), "logits_to_keep": 1}
    return {"input_ids": row([*prompt]), "decoder_input_ids": row([start_token(model), *begun])}


def prompts_of(forest: Forest) -> list[bool]:
    """Of each segment, whether it is read by the encoder: a root, and what of a prompt stands behind a prefix that
    several examples share."""
    owner = forest.owner.tolist()
    return [above < 0 or owner[above] < 0 for above in forest.parent.tolist()]


def refuse_learned(model: PreTrainedModel, forest: Forest, is_prompt: Sequence[bool]) -> None:
    start, stop, weights = forest.start.tolist(), forest.stop.tolist(), forest.weights.cpu()
    for s, is_read in enumerate(is_prompt):
        if is_read and bool(weights[start[s] : stop[s]].any()):
            raise ModelError(
                f"segment {s} is a root and has learned tokens, but {type(model).__name__} reads roots with its "
                "encoder, which predicts nothing. Render the prompt as the root and the reply as its child."
            )


def seq2seq_hidden(model: PreTrainedModel, forest: Forest) -> Tensor:
    """Hidden states [N, D]: of the decoder's final norm for replies, of the encoder for prompts.

    A prompt's last position holds the decoder's state at the start token, which predicts the first token of each of its
    replies. A prefix that several examples share has the encoder's states under the first of them: the encoder looks
    ahead, so they are no one's alone, and nothing is predicted from them.
    """
    is_prompt = prompts_of(forest)
    refuse_learned(model, forest, is_prompt)
    start, stop = forest.start.tolist(), forest.stop.tolist()
    device, num = forest.tokens.device, forest.num_tokens
    paths = [
        (tuple(s for s in path if is_prompt[s]), [(start[s], stop[s]) for s in path if not is_prompt[s]])
        for path in leaf_paths(forest.parent.tolist())
    ]
    row_of = {asked: row for row, asked in enumerate(dict.fromkeys(asked for asked, _ in paths))}
    near = padded_rows([[(start[s], stop[s]) for s in asked] for asked in row_of], num)
    far = padded_rows([said for _, said in paths], num)
    of_row = torch.tensor([row_of[asked] for asked, _ in paths], device=device)
    mask = near.mask.to(device)
    states = model.get_encoder()(input_ids=forest.tokens[near.token.to(device)], attention_mask=mask).last_hidden_state
    first = torch.full((len(paths), 1), start_token(model), dtype=torch.int64, device=device)
    decoded = model.get_decoder()(
        input_ids=torch.cat([first, forest.tokens[far.token.to(device)]], 1),
        attention_mask=torch.cat([torch.ones_like(first), far.mask.to(device)], 1),
        encoder_hidden_states=states.index_select(0, of_row),
        encoder_attention_mask=mask.index_select(0, of_row),
        use_cache=False,
    ).last_hidden_state
    width = far.token.shape[1]
    where = near.where.clone()
    offset = states.shape[0] * states.shape[1]
    in_decoder = far.where >= 0
    # One more column than `far` counts with, for the start token.
    where[in_decoder] = offset + far.where[in_decoder] + far.where[in_decoder] // max(width, 1) + 1
    for row, (asked, _) in reversed(list(enumerate(paths))):  # the first reply of a prompt writes last
        where[stop[asked[-1]] - 1] = offset + row * (width + 1)
    both = torch.cat([states.flatten(0, 1), decoded.flatten(0, 1)])
    return both.index_select(0, where.to(device))
