"""What a reward model's export must give: the scores of a few replies, asked of plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tunesmith.data.pack import forest
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals.tasks import replies_record
from tunesmith.export.write import Serving
from tunesmith.models.bars import no_bars, no_reports
from tunesmith.types import Message


class ScoreServing(Serving):
    """The tokenizer with the chat template of training; nothing is generated."""

    def save(self, folder: Path, model: PreTrainedModel) -> None:
        self.tokenizer.chat_template = self.template
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Scores:
    """A score beside 0, as a classifier of two would give it: the spread by which a difference is judged is theirs."""

    tokens: tuple[tuple[int, ...], ...]  # of a prompt and its reply
    wanted: tuple[torch.Tensor, ...]  # [2] each
    dtype: torch.dtype

    @no_bars()
    @no_reports()
    def opened(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
        """As anyone would load it: plain transformers."""
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, problem_type="regression", dtype=dtype, local_files_only=True, use_safetensors=True
        )
        return model.eval()

    def pairs(self, model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
        """A number is the same where it is close: there is no likeliest answer beside it."""
        found = [beside_zero(model(input_ids=torch.tensor([ids])).logits[0]) for ids in self.tokens]
        return [(score, wanted, True) for score, wanted in zip(found, self.wanted, strict=True)]

    def in_float32(self, found: tuple[torch.Tensor, ...]) -> Scores:
        return replace(self, wanted=found, dtype=torch.float32)


def beside_zero(score: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(score.reshape(1).float(), (0, 1))


def expect_scores(session: Session, who: Who, renderer: Renderer, turns: Sequence[Sequence[Message]]) -> Scores:
    """`turns`: prompts, each with its reply behind it."""
    records = [replies_record(renderer, str(n), some[:-1], some[-1:]) for n, some in enumerate(turns)]
    found = session.scores(who, [forest([record]) for record in records])
    tokens = tuple(tuple(np.concatenate([s.tokens for s in record.segments]).tolist()) for record in records)
    return Scores(tokens, tuple(beside_zero(score_L[-1]) for score_L in found), session.base.model.dtype)
