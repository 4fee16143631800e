"""Which layers moved: the same as building the change and taking its norm."""

from __future__ import annotations

import pytest
import torch
from tests import tiny

from tunesmith.models.adapters import Adapt, initial_values, open_slot
from tunesmith.models.moved import moved


def test_lora_is_the_norm_of_the_product() -> None:
    model = tiny.build("llama")
    slot = open_slot(model, Adapt(rank=4, alpha=12))
    values = initial_values(slot, 0)
    assert all(m.relative == 0 for m in moved(model, slot, values))  # B is zero at the start
    generator = torch.Generator().manual_seed(0)
    for name, value in values.items():
        if ".lora_B" in name and ".layers.1." in name:
            value.normal_(generator=generator)
    first, second = moved(model, slot, values)
    assert (first.layer, first.relative, second.layer) == ("0", 0, "1")
    change = size = 0.0
    weights = dict(model.named_parameters())
    for name, a in values.items():
        if ".lora_A" in name and ".layers.1." in name:
            change += float((3 * values[name.replace("lora_A", "lora_B")] @ a).square().sum())  # alpha / rank = 3
            size += float(weights[name.replace(".lora_A.weight", ".base_layer.weight")].square().sum())
    assert second.relative == pytest.approx((change / size) ** 0.5, rel=1e-4)


def test_weights_are_held_against_the_base() -> None:
    model = tiny.build("llama")
    slot = open_slot(model, Adapt(method="last_k", last_k=1))
    values = initial_values(slot, 0)
    for name in values:
        if name.endswith("up_proj.weight"):
            values[name] = 1.5 * values[name]
    found = {m.layer: m for m in moved(model, slot, values)}
    assert found["1"].largest.endswith("up_proj.weight")
    assert 0 < found["1"].relative < 0.5
    assert found[""].relative == 0  # the last norm


def test_an_encoder_and_its_decoder_are_told_apart() -> None:
    model = tiny.build("t5")
    slot = open_slot(model, Adapt(method="full"))
    values = initial_values(slot, 0)
    for name in values:
        if name.startswith("decoder.block.0."):
            values[name] = 1.5 * values[name]
    assert {m.layer: m.relative > 0 for m in moved(model, slot, values)} == {
        "": False, "0": False, "1": False, "2": True, "3": False,
    }  # fmt: skip
