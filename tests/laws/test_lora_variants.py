"""rsLoRA and DoRA: the base at the start, free of the cut, and what peft loads and merges is what was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests import tiny
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved, records

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.moved import moved as layers_moved

VARIANTS = {"rslora": replace(ADAPTS["lora"], rslora=True), "dora": replace(ADAPTS["lora"], dora=True)}


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_variant_is_peft_s_own(kind: str, tmp_path: Any) -> None:
    session, row = Session(base_of()), records()[7]
    batch = forest([row])
    before = session.logprobs(None, [batch])[0]
    session.create("t", Spec(VARIANTS[kind]))
    assert torch.equal(session.logprobs("t", [batch])[0], before)
    moved(session, "t")
    rows = records()
    whole = gradient(session, "t", [forest(rows)])
    assert all(float(g.abs().max()) > 0 for g in whole.values())
    assert largest(whole, gradient(session, "t", [forest(rows[:3]), forest(rows[3:])])) < 1e-5
    tuned = session.logprobs("t", [batch])[0]
    assert float((tuned - before).abs().max()) > 1e-2
    assert torch.equal(session.logprobs(None, [batch])[0], before)  # the base comes back
    session.export("t", tmp_path / "adapter")
    tokens = torch.from_numpy(row.segments[0].tokens)
    learned = torch.from_numpy(row.segments[0].weights[1:]) > 0
    opened = PeftModel.from_pretrained(tiny.build("llama"), tmp_path / "adapter")
    for model in (opened, opened.merge_and_unload()):
        with torch.no_grad():
            logp = model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
        found = logp.gather(1, tokens[1:, None])[:, 0][learned]
        assert float((found - tuned).abs().max()) < 1e-4
    again = Session(base_of())
    again.create_from("t", tmp_path / "adapter")
    assert torch.equal(again.logprobs("t", [batch])[0], tuned)
    tenant = session.tenants["t"]
    assert len(layers_moved(session.base.model, tenant.slot, tenant.masters)) == 2


def test_rslora_is_lora_with_another_alpha() -> None:
    """And not LoRA with the same one, the mutant."""

    def gradients(**changes: Any) -> dict[str, torch.Tensor]:
        session = Session(base_of())
        session.create("t", Spec(replace(ADAPTS["lora"], **changes)))
        return gradient(session, "t", [forest(records())])

    stabilised, plain = gradients(rslora=True), gradients(alpha=16.0)  # rank 4: 8 / root of 4 = 16 / 4
    assert largest(stabilised, plain) == 0
    assert largest(stabilised, gradients()) > 0.1
