"""Heads that are not what the configuration says are refused; peft's wrappers are seen through or refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model, inject_adapter_in_model
from tests import tiny
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models.heads import evaluating, find_head, unwrapped, whole_rows


@pytest.mark.parametrize(
    ("name", "scale", "cap"),
    [("llama", 1, None), ("gemma2", 1, 3.0), ("cohere", 0.25, None), ("granite", 1 / 3, None), ("t5", 24**-0.5, None)],
)
def test_what_is_found(name: str, scale: float, cap: float | None) -> None:
    head = find_head(tiny.build(name))
    assert head.scale == pytest.approx(scale)
    assert head.softcap == cap


def test_a_scale_that_the_configuration_hides_is_refused() -> None:
    model = tiny.build("llama")
    model.lm_head.register_forward_hook(lambda _, __, logits: 1.01 * logits)
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        find_head(model)


def test_a_cap_that_the_configuration_hides_is_refused() -> None:
    """Small hidden states would not show it; large ones do."""
    model = tiny.build("llama")
    model.lm_head.register_forward_hook(lambda _, __, logits: 200 * torch.tanh(logits / 200))
    with pytest.raises(ModelError):
        find_head(model)


def test_no_head() -> None:
    with pytest.raises(ModelError, match="no language-modelling head"):
        find_head(tiny.build("llama").model)


def test_not_a_transformers_model() -> None:
    with pytest.raises(ModelError, match="Linear"):
        unwrapped(nn.Linear(1, 1))


def test_prompt_learning_is_refused() -> None:
    wrapped = get_peft_model(tiny.build("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="PREFIX_TUNING"):
        unwrapped(wrapped)


def test_a_saved_head_module_is_the_active_copy() -> None:
    model = tiny.build("llama")
    own = model.lm_head.weight
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    head = find_head(wrapped)
    assert head.weight is model.lm_head.modules_to_save["default"].weight
    assert head.weight.requires_grad
    with wrapped.disable_adapter():
        assert head.weight is own


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_adapters_that_are_not_a_matrix_are_refused(more: dict) -> None:
    model = tiny.build("llama")
    inject_adapter_in_model(LoraConfig(target_modules=["lm_head"], **more), model)
    with pytest.raises(ModelError, match="DoRA or dropout"):
        find_head(model)


def test_modes_come_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    with evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
    assert [model.training, model[0].training, model[1].training] == [True, True, False]


def test_a_head_is_handed_its_states_in_one_piece() -> None:
    """generate hands it the last position of each row; a slice, in bfloat16 on a CPU, takes 40 times as long."""
    handed = []
    for opened in (tiny.build("llama"), whole_rows(tiny.build("llama"))):
        opened.get_output_embeddings().register_forward_hook(lambda head, given, out: handed.append(given[0].stride()))
        with torch.no_grad():
            opened(torch.zeros(2, 5, dtype=torch.int64), logits_to_keep=1)
    width = opened.config.hidden_size
    assert handed == [(5 * width, width, 1), (width, width, 1)]
