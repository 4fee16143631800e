"""The head of a reward model: the state at the end of a reply -> one number.

It is read where transformers reads it, at the last token that is no padding by the model's configuration: many a model
pads with its end of turn, and then that token is not read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from tunesmith.errors import ModelError
from tunesmith.models.class_head import ClassHead
from tunesmith.models.heads import Head
from tunesmith.models.kinds import CLASSES, is_encoder
from tunesmith.types import Forest


@dataclass(frozen=True, slots=True)
class ScoreHead(ClassHead):
    """A class head of one output."""

    def scores(self, hidden: Tensor, batch: Forest) -> Tensor:
        """[S], float32, of what ends with each segment."""
        at = ends(batch, self.model.config.get_text_config().pad_token_id)
        return self.logits(hidden[at.to(hidden.device)])[:, 0]

    @torch.no_grad()
    def begin(self, fresh: Collection[str]) -> None:
        """A head that the files lack gives 0 to everything: before training it prefers nothing."""
        for name in fresh:
            self.model.get_parameter(name).zero_()


def scalars(head: Head, heads: nn.ModuleDict | None, hidden: Tensor, at: Tensor, batch: Forest) -> dict[str, Tensor]:
    """What heads of one number say: a reward model's of each segment, a tenant's own before each token `at` [L]."""
    found = {} if heads is None else {n: own(hidden[at]).squeeze(-1) for n, own in heads.items()}
    return found | ({"score": head.scores(hidden, batch)} if isinstance(head, ScoreHead) else {})


def ends(batch: Forest, pad: int | None) -> Tensor:
    """[S] places of the last token of each segment that is not `pad`; in its parent where the segment has none."""
    last = batch.stop - 1
    if pad is None:
        return last
    place = torch.arange(batch.num_tokens, device=last.device)
    found = torch.where(batch.tokens == pad, -1, place).cummax(0).values[last]
    return torch.where(found >= batch.start, found, found[batch.parent.clamp_min(0)])


def make_scoring(name: str, config: PreTrainedConfig) -> None:
    """The configuration of a model with one output. ModelError where it is none that reads from left to right."""
    if is_encoder(config) or config.is_encoder_decoder:
        raise ModelError(
            f"model {name} is no decoder, and a reward model reads a reply behind its prompt from left to right here. "
            "Take a decoder"
        )
    if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        raise ModelError(
            f"model {name} is a {config.model_type}, for which transformers has no class head, so nothing could open "
            "the reward model. Take a decoder of another kind"
        )
    if CLASSES & {*(config.architectures or ())} and config.num_labels != 1:
        raise ModelError(
            f"model {name} gives {config.num_labels} classes, and a reward model gives one number. Take a reward "
            "model, or a decoder without such a head"
        )
    config.num_labels, config.problem_type = 1, "regression"
