"""Laws of the session and the loop: cut, determinism, resume, tenants, snapshots, what is frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, gradient, gradient_step, largest, moved, records
from torch import Tensor

from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import forest
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import EmptyUpdate, ModelError, NotFinite, PlanError, RunError
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT


@pytest.mark.parametrize("adapt", ADAPTS)
def test_the_cut_is_free(adapt: str) -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS[adapt]))
    moved(session, "t")
    rows = records()
    whole = gradient(session, "t", [forest(rows)])
    assert all(float(g.abs().max()) > 0 for g in whole.values())
    cut = gradient(session, "t", [forest(rows[:1]), forest(rows[1:8]), forest(rows[8:])])
    assert largest(whole, cut) < 1e-5
    unshared = gradient(session, "t", [forest(rows, share_prefix=False)])
    assert largest(whole, unshared) < 1e-5


def test_the_cut_law_sees_a_mean_of_means() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["full"]))
    rows = records()
    whole = gradient(session, "t", [forest(rows)])
    parts = [gradient(session, "t", [forest(part)]) for part in (rows[:1], rows[1:8], rows[8:])]
    means = {n: sum(p[n] for p in parts) / len(parts) for n in whole}
    assert largest(whole, means) > 1e-2


def a_run(adapt: Adapt, stop_at: int | None = None, folder: Any = None, resume: bool = False) -> dict[str, Tensor]:
    """Six updates over shuffled records; optionally stopped and saved, or loaded and gone on with."""
    session = Session(base_of())
    feed = FileFeed(records(), update_tokens=64, micro_tokens=48, epochs=3, seed=3)
    session.create("t", Spec(adapt, AdamW(weight_decay=0.01), seed=5))
    state = State("t", SFT(), Schedule("cosine", 0.2), 1e-2, feed.num_updates)
    if resume:
        path, skipped = checkpoint.newest(folder)
        assert path is not None
        assert not skipped
        checkpoint.load(path, session, state, feed)
        assert 0 < state.update < state.num_updates
    train(session, state, feed, stop_at or state.num_updates)
    if stop_at:
        checkpoint.save(folder, session, state, feed)
    return {n: t.clone() for n, t in session.tenants["t"].masters.items()}


@pytest.mark.parametrize(
    "adapt",
    [replace(ADAPTS["lora"], dropout=0.3), ADAPTS["full"], ADAPTS["last_k"]],
    ids=["lora+dropout", "full", "last_k"],
)
def test_twice_is_the_same_and_a_resume_is_the_same_run(adapt: Adapt, tmp_path: Any) -> None:
    first, second = a_run(adapt), a_run(adapt)
    assert all(torch.equal(first[n], second[n]) for n in first)
    a_run(adapt, stop_at=3, folder=tmp_path)
    resumed = a_run(adapt, folder=tmp_path, resume=True)
    assert all(torch.equal(first[n], resumed[n]) for n in first)


def test_a_resume_without_the_optimizer_is_another_run(tmp_path: Any) -> None:
    """The mutant of the law above: leaving the moments out must show."""
    whole = a_run(ADAPTS["lora"])
    session = Session(base_of())
    feed = FileFeed(records(), update_tokens=64, micro_tokens=48, epochs=3, seed=3)
    session.create("t", Spec(ADAPTS["lora"], AdamW(weight_decay=0.01), seed=5))
    state = State("t", SFT(), Schedule("cosine", 0.2), 1e-2, feed.num_updates)
    train(session, state, feed, 3)
    tensors, facts = session.save_state("t", with_optimizer=False)
    session.load_state("t", tensors, facts)
    train(session, state, feed, state.num_updates)
    after = session.tenants["t"].masters
    assert any(not torch.equal(whole[n], after[n]) for n in whole)


def test_two_tenants_in_turn_equal_each_alone() -> None:
    batches = [forest(records(5, seed=s)) for s in range(4)]

    def alone(seed: int, rank: int) -> dict[str, Tensor]:
        session = Session(base_of())
        session.create("only", Spec(replace(ADAPTS["lora"], rank=rank), seed=seed))
        for batch in batches:
            gradient_step(session, "only", [batch])
        return session.tenants["only"].masters

    for ranks in ((4, 4), (4, 2)):  # one slot for both, and a slot each
        session = Session(base_of())
        session.create("b", Spec(replace(ADAPTS["lora"], rank=ranks[1]), seed=2))  # the other order of creation
        session.create("a", Spec(replace(ADAPTS["lora"], rank=ranks[0]), seed=1))
        for batch in batches:
            gradient_step(session, "a", [batch])
            gradient_step(session, "b", [batch])
        for name, seed, rank in (("a", 1, ranks[0]), ("b", 2, ranks[1])):
            expected = alone(seed, rank)
            found = session.tenants[name].masters
            assert all(torch.equal(expected[n], found[n]) for n in expected), (name, ranks)
    different = alone(1, 4), alone(2, 4)
    assert any(not torch.equal(different[0][n], different[1][n]) for n in different[0])


def test_a_published_snapshot_never_moves() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    moved(session, "t")
    batch = forest(records())
    snapshot = session.publish("t")
    before = session.logprobs(snapshot, [batch])[0]
    gradient_step(session, "t", [batch])
    assert torch.equal(session.logprobs(snapshot, [batch])[0], before)
    assert not torch.equal(session.logprobs("t", [batch])[0], before)


@pytest.mark.parametrize("adapt", ADAPTS)
def test_a_tenant_at_update_0_is_the_base_and_the_base_stays_the_base(adapt: str) -> None:
    session = Session(base_of())
    batch = forest(records())
    before = session.logprobs(None, [batch])[0]
    session.create("t", Spec(ADAPTS[adapt]))
    assert torch.equal(session.logprobs("t", [batch])[0], before)
    moved(session, "t")
    assert not torch.equal(session.logprobs("t", [batch])[0], before)
    assert torch.equal(session.logprobs(None, [batch])[0], before)


def test_what_is_frozen_stays_frozen_after_the_reference_was_asked() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["full"]))
    names = sorted(session.tenants["t"].masters)
    frozen = {n: session.tenants["t"].masters[n].clone() for n in names if "layers.1" not in n}
    session.set_trainable("t", [n for n in names if n not in frozen])
    batch = forest(records())
    for _ in range(2):
        session.logprobs(None, [batch])
        gradient_step(session, "t", [batch])
        session.logprobs(None, [batch])
    after = session.tenants["t"].masters
    assert all(torch.equal(frozen[n], after[n]) for n in frozen)
    assert all(after[n] not in session.tenants["t"].optimizer.state for n in frozen)
    assert any(not torch.equal(after[n], session.slots["full"].neutral[n]) for n in names if n not in frozen)


def test_a_dozen_tenants_cost_no_new_compilation() -> None:
    torch._dynamo.reset()
    session = Session(base_of(num_hidden_layers=1), compiled=True)
    batches = [forest(records(5, seed=0)), forest(records(9, seed=1))]
    for i in range(12):
        session.create(f"t{i}", Spec(ADAPTS["lora"], seed=i))
        if i == 1:
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for batch in batches:
            gradient_step(session, f"t{i}", [batch])
    found = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert found == graphs
    plain = Session(base_of(num_hidden_layers=1))
    plain.create("t11", Spec(ADAPTS["lora"], seed=11))
    for batch in batches:
        gradient_step(plain, "t11", [batch])
    compiled, eager = session.tenants["t11"].masters, plain.tenants["t11"].masters
    assert max(float((compiled[n] - eager[n]).abs().max()) for n in eager) < 1e-3
    torch._dynamo.reset()


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_the_examples() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    moved(session, "t")
    before = session.publish("t").values
    session.forward_backward("t", [forest(records(3))], SFT(), float("inf"))
    with pytest.raises(NotFinite) as caught:
        session.optim_step("t", 1e-2)
    assert caught.value.example_ids == ("e0", "e1", "e2")
    assert all(torch.equal(before[n], t) for n, t in session.tenants["t"].masters.items())
    gradient_step(session, "t", [forest(records(3))])  # and the tenant goes on


def test_what_is_refused() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    with pytest.raises(PlanError, match="one tenant"):
        session.create("u", Spec(ADAPTS["full"]))
    with pytest.raises(PlanError, match="already"):
        session.create("t", Spec(ADAPTS["lora"]))
    with pytest.raises(RunError, match="no tenant"):
        session.publish("x")
    with pytest.raises(RunError, match="forward_backward first"):
        session.optim_step("t", 1e-3)
    session.forward_backward("t", [forest(records(2))], SFT(), 1.0)
    with pytest.raises(RunError, match="pending"):
        session.save_state("t")
    session.optim_step("t", 1e-3)
    tensors, facts = session.save_state("t")
    with pytest.raises(RunError, match="digest"):
        session.load_state("t", tensors, {**facts, "base_digest": "1" * 64})
    session.load_state("t", tensors, {**facts, "base_digest": "1" * 64}, insist=True)


def test_an_update_without_units_is_an_error() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    masked = [replace(r, segments=(replace(r.segments[0], weights=r.segments[0].weights * 0),)) for r in records(3)]
    feed = FileFeed(masked, 64, 64, 1, 0)
    with pytest.raises(EmptyUpdate):
        train(session, State("t", SFT(), Schedule(), 1e-3, feed.num_updates), feed, 1)


def test_an_adapter_folder_comes_back_as_a_tenant_on_its_own_base_only(tmp_path: Any) -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    moved(session, "t")
    session.export("t", tmp_path / "adapter")
    batch = forest(records())
    expected = session.logprobs("t", [batch])[0]
    other = Session(base_of())
    other.create_from("again", tmp_path / "adapter")
    assert torch.equal(other.logprobs("again", [batch])[0], expected)
    stranger = Session(replace(base_of(), digest="1" * 64))
    with pytest.raises(ModelError, match="made on a base with digest"):
        stranger.create_from("again", tmp_path / "adapter")
    stranger.create_from("again", tmp_path / "adapter", insist=True)
    assert torch.equal(stranger.logprobs("again", [batch])[0], expected)


def test_in_bf16_the_masters_stay_float32_and_keep_small_steps() -> None:
    """A step far below bf16's resolution of a weight moves the master, and many of them move the weight."""
    session = Session(base_of(dtype=torch.bfloat16))
    session.create("t", Spec(ADAPTS["full"]))
    tenant = session.tenants["t"]
    before = {n: t.clone() for n, t in tenant.masters.items()}
    batch = forest(records())
    norms = [n for n in tenant.masters if "norm" in n]  # ones, next to which bf16 is 0.004 wide
    gradient_step(session, "t", [batch], lr=1e-4)
    assert all(t.dtype == torch.float32 for t in tenant.masters.values())
    assert all(p.dtype == torch.bfloat16 for p in tenant.slot.live.values())
    assert all(0 < float((before[n] - tenant.masters[n]).abs().max()) < 2e-4 for n in norms)
    session._put(tenant)
    assert all(
        torch.equal(tenant.slot.live[n], before[n].bfloat16()) for n in norms
    )  # one step is lost to the weight …
    for _ in range(60):
        gradient_step(session, "t", [batch], lr=1e-4)
    session._put(tenant)
    assert not any(torch.equal(tenant.slot.live[n], before[n].bfloat16()) for n in norms)  # … the sum of many is not
