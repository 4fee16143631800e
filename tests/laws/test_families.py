"""Every family of decoders learns a few rows by heart, is saved, and is opened by plain transformers or peft, which
write the same; encoders are in test_rows.py, encoder-decoders in test_seq2seq.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests import tiny
from tests.laws.sessions import base_of, gradient_step

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import PlanError
from tunesmith.generate.limits import Limits
from tunesmith.models.adapters import Adapt, targets_of
from tunesmith.types import Record, Segment

DECODERS = [name for name, family in tiny.FAMILIES.items() if family.layout != "seq2seq"]
UNDROPPED = {
    "gpt2": {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}, "opt": {"dropout": 0.0},
}  # fmt: skip
STOP, NUM_NEW = 2, 8
PROMPTS = [[1, 20 + i, 9, 30 + i] for i in range(4)]
REPLIES = [[40 + i, 11, 50 - i, 12 + i][: 2 + i % 3] + [STOP] for i in range(4)]


def rows() -> list[Record]:
    made = []
    for i, (prompt, reply) in enumerate(zip(PROMPTS, REPLIES)):
        weights = np.array([0.0] * len(prompt) + [1.0] * len(reply), np.float32)
        made.append(Record(f"e{i}", (Segment(np.array(prompt + reply), weights),)))
    return made


def written(model: Any) -> list[list[int]]:
    """By transformers' own generate, prompt by prompt."""
    found = []
    for prompt in PROMPTS:
        tokens = torch.tensor([prompt])
        out = model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NUM_NEW, do_sample=False,
            eos_token_id=STOP, pad_token_id=0,
        )  # fmt: skip
        found.append(out[0, len(prompt) :].tolist())
    return found


def test_names_that_peft_reads_otherwise_are_left_alone() -> None:
    """It would take them for the fused weights of experts: LoRA stood there, and the export did not open."""
    model = tiny.build("deepseek_v3")
    linear = {name.split(".")[-1] for name, m in model.named_modules() if type(m).__name__ == "Linear"} - {"lm_head"}
    assert linear - set(targets_of(Adapt(), model)) == {"gate_proj", "up_proj", "down_proj"}
    with pytest.raises(PlanError, match=r"adapt\.targets names down_proj, which peft takes for"):
        targets_of(Adapt(targets=("down_proj", "o_proj")), model)


@pytest.mark.parametrize("adapt", [Adapt("full"), Adapt("lora", rank=8)], ids=["full", "lora"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_few_rows_are_learned_by_heart_and_open_elsewhere(name: str, adapt: Adapt, tmp_path: Path) -> None:
    session = Session(base_of(name, **UNDROPPED.get(name, {})))
    if name == "mamba" and adapt.is_adapter:
        with pytest.raises(PlanError, match=r"'out_proj' is incompatible .* adapt.targets"):
            session.create("t", Spec(adapt))
        adapt = replace(adapt, targets=("in_proj", "x_proj"))
    session.create("t", Spec(adapt))
    for _ in range(15):
        for _ in range(20):
            gradient_step(session, "t", [forest(rows())], 1e-2)
        done = [list(c.tokens) for c in session.sample("t", PROMPTS, Limits(NUM_NEW, (STOP,)), decode=str)]
        if done == REPLIES:
            break
    assert done == REPLIES
    said = [session.next_logits("t", prompt) for prompt in PROMPTS]
    session.export("t", tmp_path)
    session.close()
    kind = type(session.base.model)
    whole = tiny.build(name) if adapt.is_adapter else kind.from_pretrained(tmp_path)
    opened = (PeftModel.from_pretrained(whole, str(tmp_path)) if adapt.is_adapter else whole).eval()
    assert written(opened) == REPLIES
    with torch.no_grad():
        now = [opened(input_ids=torch.tensor([prompt])).logits[0, -1] for prompt in PROMPTS]
    assert max(float((a - b).abs().max()) for a, b in zip(now, said)) < 1e-4 * max(float(b.abs().max()) for b in said)
