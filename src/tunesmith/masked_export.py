"""What an encoder with its masked-language head must say after its export: the same of hidden tokens, opened by plain
transformers and peft.

peft has no task type for it, so an adapter is one of no task, on AutoModelForMaskedLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from tunesmith.data.denoised import MaskedText
from tunesmith.data.masking import taken_apart
from tunesmith.data.pack import forest
from tunesmith.data.whole_text import text_of
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.models.bars import no_bars, no_reports
from tunesmith.models.forward import output
from tunesmith.types import Example, Message, Record, Reply

MOST_PLACES = 8  # hidden tokens of a text that are compared, over the whole vocabulary


@dataclass(frozen=True, slots=True)
class Foretold:
    """What the session says of some hidden tokens of a few texts."""

    records: tuple[Record, ...]
    logp: tuple[torch.Tensor, ...]  # [L, V] nats each, at the first MOST_PLACES hidden places
    dtype: torch.dtype

    @no_bars()
    @no_reports()
    def opened(self, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
        """As anyone would load it: plain transformers."""
        model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        return model.eval()

    def pairs(self, model: Any, tokenizer: Any) -> list[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Of each text (what the model says, what the session said, whether the likeliest tokens are the same)."""
        found = []
        for record, wanted_LV in zip(self.records, self.logp):
            shown, hidden, _ = taken_apart(record)
            logits = model(input_ids=torch.tensor(shown)[None]).logits[0, hidden[:MOST_PLACES]]
            found_LV = logits.float().log_softmax(-1)
            found.append((found_LV, wanted_LV, torch.equal(found_LV.argmax(-1), wanted_LV.argmax(-1))))
        return found

    def in_float32(self, found: tuple[torch.Tensor, ...]) -> Foretold:
        return replace(self, logp=found, dtype=torch.float32)


@torch.no_grad()
def expect_masked(
    session: Session, snapshot: Snapshot, renderer: MaskedText, prompts: Sequence[Sequence[Message]]
) -> Foretold:
    """`prompts`: the texts."""
    examples = [Example(str(n), (), Reply(Message("assistant", text_of(p)))) for n, p in enumerate(prompts)]
    records = [record for e in examples for record in renderer.plain.scored(e)[:1]]
    base, said = session.base, []
    with session.borrowed(snapshot) as model:
        for record in records:
            out = output(model, base.head, forest([record]).to(model.device), base.layout)
            said.append(base.head.logits(out.hidden[out.at[:MOST_PLACES]]).log_softmax(-1).cpu())
    return Foretold(tuple(records), tuple(said), base.model.dtype)
