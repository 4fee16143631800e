"""What drops something by itself is known from modules and configuration, and the plan says where the cut is felt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.sessions import base_of

from tunesmith.method import own_dropout, rows
from tunesmith.recipe import parse

IDS = torch.tensor([[5, 9, 31, 7]])


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}), ("llama", {"attention_dropout": 0.3}), ("gpt2", {}), ("opt", {}), ("opt", {"dropout": 0.3}),
        ("falcon", {"hidden_dropout": 0.3}), ("starcoder2", {"residual_dropout": 0.3}), ("t5", {}),
        ("t5", {"dropout_rate": 0.0}), ("bart", {}), ("bart", {"dropout": 0.0}),
        ("bart", {"dropout": 0.0, "activation_dropout": 0.3}),
    ],
)  # fmt: skip
def test_own_dropout_is_what_two_passes_show(family: str, changes: dict[str, Any]) -> None:
    base: Any = base_of(family, **changes)
    given = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if base.layout == "seq2seq" else {})
    base.model.train()
    with torch.no_grad():
        one, other = (base.model(**given).logits for _ in range(2))
    assert own_dropout(base) == (not torch.equal(one, other))


@pytest.mark.parametrize(("family", "is_felt"), [("llama", False), ("falcon", True)])
def test_dropout_of_padded_rows_is_felt(family: str, is_felt: bool) -> None:
    base = base_of(family)
    for dropout in (0.0, 0.1):
        said = [key for key, *_ in rows(parse({"adapt": {"dropout": dropout}}), base)]
        assert ("micro-batches" in said) == (is_felt and dropout > 0)
