"""Rates by depth, unfreezing, tensors by name: what is frozen keeps its bits and costs no backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, gradient, gradient_step, records
from torch import Tensor

from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import forest
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.unfreeze import Unfreeze
from tunesmith.errors import PlanError
from tunesmith.models.adapters import Adapt
from tunesmith.models.depth import depths, factors, top
from tunesmith.objectives.sft import SFT

NUM_LAYERS = 4


def deep() -> Session:
    return Session(base_of(num_hidden_layers=NUM_LAYERS))


@contextmanager
def layers_gone_back_through(session: Session) -> Iterator[list[int]]:
    """Which layers a backward pass enters."""
    entered: list[int] = []
    layers = session.base.model.model.layers
    handles = [layer.register_full_backward_hook(lambda *_, n=n: entered.append(n)) for n, layer in enumerate(layers)]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def kept_for_backward(session: Session) -> int:
    """Numbers that a forward pass keeps for the backward one, parameters aside."""
    known = {p.data_ptr() for p in session.base.model.parameters()}
    count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 0 if tensor.data_ptr() in known else tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        gradient(session, "t", [forest(records())])
    return count


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_frozen_depth_costs_neither_backward_nor_optimizer(adapt: str) -> None:
    session = deep()
    session.create("t", Spec(ADAPTS[adapt]))
    tenant = session.tenants["t"]
    every = list(tenant.masters)
    everything = kept_for_backward(session)
    session.set_trainable("t", [n for n in every if f"layers.{NUM_LAYERS - 1}." in n])
    with layers_gone_back_through(session) as entered:
        gradient_step(session, "t", [forest(records())])
    assert set(entered) == {NUM_LAYERS - 1}
    assert len(tenant.optimizer.state) == len(tenant.trainable) < len(every)
    assert kept_for_backward(session) < everything / 2
    session.set_trainable("t", every)  # the counting sees the others when they train
    with layers_gone_back_through(session) as entered:
        gradient_step(session, "t", [forest(records())])
    assert set(entered) >= set(range(1, NUM_LAYERS))


def unfrozen_run(stop_at: int | None = None, folder: Any = None) -> tuple[dict[str, Tensor], list[int]]:
    """Three epochs, one group of layers more in each; how many tensors trained in each update."""
    trained = []
    for first, last in ((0, 9),) if stop_at is None else ((0, stop_at), (stop_at, 9)):
        session = deep()
        feed = FileFeed(records(), update_tokens=64, micro_tokens=96, epochs=3, seed=3)
        session.create("t", Spec(ADAPTS["full"], by_depth=2.0))
        state = State("t", SFT(), Schedule(), 1e-2, feed.num_updates)
        if first:
            path, _ = checkpoint.newest(folder)
            assert path is not None
            checkpoint.load(path, session, state, feed)
        unfreeze = Unfreeze(session, "t", 3, feed.updates_per_epoch)
        unfreeze(state.update, {})
        now = len(session.tenants["t"].trainable)
        trained.append(now)
        train(session, state, feed, min(last, feed.num_updates),
              [lambda *_, s=session: trained.append(len(s.tenants["t"].optimizer.state)), unfreeze])  # fmt: skip
        if last == stop_at:
            checkpoint.save(folder, session, state, feed)
    return {n: t.clone() for n, t in session.tenants["t"].masters.items()}, trained


def test_unfreezing_goes_from_the_top_and_a_resume_goes_on_with_it(tmp_path: Any) -> None:
    whole, trained = unfrozen_run()
    assert trained == sorted(trained)
    assert len(set(trained)) == 3
    resumed, _ = unfrozen_run(4, tmp_path)
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_depth_and_groups() -> None:
    session = deep()
    session.create("t", Spec(ADAPTS["full"]))
    depth = depths(session.base.model, session.tenants["t"].masters)
    assert depth["model.embed_tokens.weight"] == 0
    assert depth["model.layers.0.mlp.up_proj.weight"] == 1
    assert depth["model.norm.weight"] == NUM_LAYERS + 1
    assert {d for n, d in depth.items() if n in top(depth, 3, 1)} == {5, 4}
    assert {d for n, d in depth.items() if n in top(depth, 3, 2)} == {5, 4, 3, 2}
    assert top(depth, 3, 3) == list(depth)
    rates = factors(depth, 2.6)
    assert rates["model.norm.weight"] == 1
    assert rates["model.layers.3.mlp.up_proj.weight"] == pytest.approx(1 / 2.6)
    assert rates["model.embed_tokens.weight"] == pytest.approx(2.6**-5)


def test_a_rate_by_depth_is_a_smaller_step() -> None:
    """AdamW's first step has the size of the rate, so the factors show as they are."""

    def first_step(by_depth: float) -> dict[str, float]:
        session = deep()
        session.create("t", Spec(ADAPTS["full"], by_depth=by_depth))
        before = {n: t.clone() for n, t in session.tenants["t"].masters.items()}
        gradient_step(session, "t", [forest(records())])
        after = session.tenants["t"].masters
        return {n: float((after[n] - before[n]).abs().max()) for n in before}

    plain, graded = first_step(1.0), first_step(2.0)
    for layer in range(NUM_LAYERS):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert graded[name] == pytest.approx(plain[name] * 2.0 ** -(NUM_LAYERS - layer), rel=1e-3)
    assert graded["model.norm.weight"] == plain["model.norm.weight"]


def test_tensors_by_their_names() -> None:
    session = deep()
    session.create("t", Spec(Adapt("named", names=("*.mlp.down*", "model.norm.*"))))
    masters = session.tenants["t"].masters
    assert len(masters) == NUM_LAYERS + 1
    gradient_step(session, "t", [forest(records())])
    for names, message in (((), "wants adapt.names"), (("*.mpl.*",), "fits no tensor")):
        with pytest.raises(PlanError, match=message):
            deep().create("u", Spec(Adapt("named", names=names)))
