"""Running the decoder layers again in the backward changes memory, and no gradient."""

from __future__ import annotations

import pytest
import torch
from tests import tiny
from tests.laws.sessions import ADAPTS, base_of, gradient, moved, records
from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.adapters import Adapt
from tunesmith.models.calls import count_calls

BATCHES = [forest(records(5)), forest(records(4, seed=1))]


def learned(family: str, adapt: Adapt, *, checkpointing: bool) -> tuple[dict[str, Tensor], int, int]:
    """(gradients after a few updates, runs of forest attention for them, layers)."""
    base = base_of(family)
    session = Session(base, checkpointing=checkpointing)
    session.create("t", Spec(adapt))
    moved(session, "t")
    with count_calls() as calls:
        found = gradient(session, "t", BATCHES)
    assert not base.model.is_gradient_checkpointing
    assert base.model.config._attn_implementation == "eager", "its own attention comes back"
    return found, calls.num, base.model.config.num_hidden_layers


@pytest.mark.parametrize("adapt", ADAPTS.values(), ids=ADAPTS)
def test_gradients_are_equal_bit_by_bit(adapt: Adapt) -> None:
    plain, _, _ = learned("llama", adapt, checkpointing=False)
    again, _, _ = learned("llama", adapt, checkpointing=True)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[n], again[n]) for n in plain)


@pytest.mark.parametrize("family", [n for n, f in tiny.FAMILIES.items() if f.layout == "forest"])
def test_the_layers_of_each_family_run_twice_with_equal_gradients(family: str) -> None:
    """The mutant: a family that does not heed the switch would pass a comparison of gradients alone."""
    plain, once, num_layers = learned(family, Adapt(rank=4), checkpointing=False)
    again, twice, _ = learned(family, Adapt(rank=4), checkpointing=True)
    assert (once, twice) == (num_layers * len(BATCHES), 2 * num_layers * len(BATCHES))
    for name, wanted in plain.items():
        torch.testing.assert_close(again[name], wanted, rtol=1e-5, atol=1e-7)


def test_noise_of_the_second_run_is_that_of_the_first() -> None:
    adapt = Adapt(rank=4, dropout=0.5)
    plain, _, _ = learned("llama", adapt, checkpointing=False)
    again, _, _ = learned("llama", adapt, checkpointing=True)
    assert all(torch.equal(plain[n], again[n]) for n in plain)


def test_the_padded_layout_has_it_too() -> None:
    base = base_of("gpt_neo")
    found = []
    for checkpointing in (False, True):
        session = Session(base, checkpointing=checkpointing)
        session.create("t", Spec(Adapt("last_k", last_k=1)))
        found.append(gradient(session, "t", [forest(records(3), share_prefix=False)]))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
