"""What drops something by itself is known from modules and configuration, and the plan says where the cut is felt."""

from __future__ import annotations

from copy import deepcopy
from operator import attrgetter
from typing import Any

import pytest
import torch
from tests.laws.sessions import base_of

from tunesmith.errors import PlanError
from tunesmith.evals.tasks import KINDS
from tunesmith.method import READ_WITH, idle, own_dropout, refuse, rows
from tunesmith.recipe import Recipe, parse, place

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
        said = [key for key, *_ in rows(parse({"adapt": {"dropout": dropout}}), base, KINDS["generate"], ())]
        assert ("micro-batches" in said) == (is_felt and dropout > 0)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "llama"])
def test_a_routers_auxiliary_loss_is_no_one_s_here(family: str) -> None:
    """Refused where the configuration asks for it; told where routers train without it."""
    base = base_of(family)
    for adapt, trains in (({"method": "full"}, True), ({"rank": 4}, False)):
        said = [key for key, *_ in rows(parse({"adapt": adapt}), base, KINDS["generate"], ())]
        assert ("routers" in said) == (trains and family != "llama")
    refuse(Recipe(), base, is_labelled=False, has_dev=True)
    base.model.config.output_router_logits = True
    with pytest.raises(PlanError, match=r"auxiliary loss .* Set that to false in its config\.json"):
        refuse(Recipe(), base, is_labelled=False, has_dev=True)


ASKED = {
    "objective.temperature": 0.1, "objective.distil.temperature": 3.0, "objective.distil.kl": "reverse",
    "adapt.context.method": "ntk", "train.early_stop.every": 5, "train.early_stop.on": "score",
}  # fmt: skip
ON = {
    "objective.contrastive": {"objective": {"contrastive": 0.5}},
    "objective.distil.share": {"objective": {"distil": {"share": 0.5, "teacher": "big"}}},
    "adapt.context.tokens": {"adapt": {"context": {"tokens": 4096}}},
    "train.early_stop.patience": {"train": {"early_stop": {"patience": 3}}},
}


@pytest.mark.parametrize("key", READ_WITH)
def test_a_key_of_something_that_is_off_is_refused(key: str) -> None:
    """But not where it is on, nor where the key says what holds anyway."""
    base = base_of()

    def said(settings: dict[str, Any], value: Any) -> Recipe:
        place(settings, key, value)
        return parse(settings)

    recipe = said({}, ASKED[key])
    assert idle(recipe) == {key: READ_WITH[key]}
    with pytest.raises(PlanError, match=f"{key} is read with {READ_WITH[key]} alone, which is off: leave {key} out"):
        refuse(recipe, base, is_labelled=True, has_dev=True)
    usual = said({}, attrgetter(key)(Recipe()))
    for other in (usual, said(deepcopy(ON[READ_WITH[key]]), ASKED[key])):
        assert idle(other) == {}
        refuse(other, base, is_labelled=True, has_dev=True)
