"""Laws of the session and the loop: cut, determinism, resume, tenants, snapshots, what is frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from torch import Tensor

from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import forest
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import EmptyUpdate, NotFinite, PlanError, RunError
from tunesmith.models.adapters import Adapt
from tunesmith.models.catalogue import Located
from tunesmith.models.heads import find_head
from tunesmith.models.load import Base
from tunesmith.models.probe import probe
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Loss, Record, Segment, Shared

ADAPTS = {
    "lora": Adapt("lora", rank=4, alpha=8),
    "full": Adapt("full"),
    "last_k": Adapt("last_k", last_k=1),
}


def base_of(family: str = "llama", **changes: Any) -> Base:
    from pathlib import Path

    model = tiny.build(family, **changes)
    model.requires_grad_(False)
    located = Located("tiny", Path(), "tiny", "", "")
    return Base(located, model, None, "0" * 64, probe(model), find_head(model), None)  # type: ignore[arg-type]


def records(num: int = 12, seed: int = 0) -> list[Record]:
    """Prompts with a common prefix and replies of very different lengths, so that a mean of means would show."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(3, tiny.VOCABULARY, 9)
    made = []
    for i in range(num):
        own = rng.integers(3, tiny.VOCABULARY, 3 + i % 5)
        reply = rng.integers(3, tiny.VOCABULARY, 1 + (i * i) % 11)
        tokens = np.concatenate([prefix, own, reply]).astype(np.int64)
        weights = np.concatenate([np.zeros(len(prefix) + len(own)), np.ones(len(reply))]).astype(np.float32)
        made.append(Record(f"e{i}", (Segment(tokens, weights),)))
    return made


def gradient(session: Session, name: str, batches: list[Forest], objective: Any = None) -> dict[str, Tensor]:
    objective = objective or SFT()
    units = float(sum(objective.count(b) for b in batches))
    session.forward_backward(name, batches, objective, 1 / units)
    tenant = session.tenants[name]
    found = {n: g.clone() for n, g in tenant.pending.items()}
    tenant.forget_gradients()
    return found


def moved(session: Session, name: str) -> None:
    """A few updates, so that LoRA's B is not zero and every gradient flows."""
    for i in range(3):
        gradient_step(session, name, [forest(records(4, seed=50 + i))])


def gradient_step(session: Session, name: str, batches: list[Forest], lr: float = 1e-2) -> None:
    units = float(sum(SFT().count(b) for b in batches))
    session.forward_backward(name, batches, SFT(), 1 / units)
    session.optim_step(name, lr)


def largest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    size = max(float(t.abs().max()) for t in a.values())
    return max(float((a[n] - b[n]).abs().max()) for n in a) / size


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
    "adapt", [replace(ADAPTS["lora"], dropout=0.3), ADAPTS["full"], ADAPTS["last_k"]], ids=["lora+dropout", "full", "last_k"]
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
    session = Session(base_of(), compiled=True)
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
    plain = Session(base_of())
    plain.create("t11", Spec(ADAPTS["lora"], seed=11))
    for batch in batches:
        gradient_step(plain, "t11", [batch])
    compiled, eager = session.tenants["t11"].masters, plain.tenants["t11"].masters
    assert max(float((compiled[n] - eager[n]).abs().max()) for n in eager) < 1e-3
    torch._dynamo.reset()


class Contrast:
    """Supervised contrastive loss over all examples of an update, whatever micro-batch they are in (a test's own twin of
    what `share` is for): the label of an example is the parity of its index."""

    needs: frozenset[str] = frozenset()

    def count(self, batch: Forest) -> Tensor:
        return torch.tensor(float(len(batch.example_ids)))

    def linear_weights(self, batch: Forest) -> None:
        return None

    def share(self, output: Any, batch: Forest) -> Tensor:
        leaf = torch.tensor([int((batch.owner == i).nonzero()[-1]) for i in range(len(batch.example_ids))])
        label = torch.tensor([float(int(e[1:]) % 2) for e in batch.example_ids])
        z = torch.nn.functional.normalize(output.pooled("last")[leaf], dim=-1)
        return torch.cat([z, label[:, None]], -1)

    def __call__(self, output: Any, batch: Forest, shared: Shared, others: dict[str, Any]) -> Loss:
        z, label = shared.rows[:, :-1], shared.rows[:, -1]
        logits = (z @ z.T / 0.3).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        logp = logits.log_softmax(-1).masked_fill(torch.eye(len(z), dtype=torch.bool), 0.0)
        same = (label[:, None] == label[None]) & ~torch.eye(len(z), dtype=torch.bool)
        each = -(logp * same).sum(-1) / same.sum(-1).clamp(min=1)
        return Loss(each[shared.mine].sum())


def test_an_objective_that_must_see_all_examples_is_not_cut_by_micro_batches() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    moved(session, "t")
    rows = records()
    whole = gradient(session, "t", [forest(rows)], Contrast())
    cut = gradient(session, "t", [forest(rows[:2]), forest(rows[2:9]), forest(rows[9:])], Contrast())
    assert largest(whole, cut) < 1e-5
    apart = [gradient(session, "t", [forest(part)], Contrast()) for part in (rows[:2], rows[2:9], rows[9:])]
    weighted = {n: sum(p[n] * k for p, k in zip(apart, (2, 7, 3))) / 12 for n in whole}
    assert largest(whole, weighted) > 1e-2  # the mutant: each micro-batch sees itself alone


class Distil:
    """KL(frozen || tenant) at the learned tokens, exact over the vocabulary."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.needs = frozenset({role})

    def count(self, batch: Forest) -> Tensor:
        return batch.weights.sum()

    def linear_weights(self, batch: Forest) -> None:
        return None

    def share(self, output: Any, batch: Forest) -> None:
        return None

    def __call__(self, output: Any, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        def kl(mine: Tensor, frozen: Tensor) -> Tensor:
            p = frozen.log_softmax(-1)
            return (p.exp() * (p - mine.log_softmax(-1))).sum(-1)

        return Loss((output.over_vocab(kl, others[self.role]) * output.weight).sum())


@pytest.mark.parametrize("adapt", ADAPTS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_reference_is_what_it_was_at_update_0(adapt: str, tied: bool) -> None:
    session = Session(base_of(tie_word_embeddings=tied))
    session.create("t", Spec(ADAPTS[adapt]))
    batch = forest(records())
    stats = session.forward_backward("t", [batch], Distil("reference"), 1.0)
    assert abs(stats["loss"].mean) < 1e-6  # the tenant is the base
    session.tenants["t"].forget_gradients()
    frozen = session.base.model(input_ids=batch.tokens[None][:, :9]).logits[0].log_softmax(-1)
    moved(session, "t")
    tenant_logp = plain_logp(session, "t", records()[3])
    base_logp = plain_logp(session, None, records()[3])
    expected = float((base_logp.exp() * (base_logp - tenant_logp)).sum())
    found = session.forward_backward("t", [forest(records()[3:4])], Distil("reference"), 1.0)["loss"]
    assert float(found.num) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-4
    session._put(None)
    again = session.base.model(input_ids=batch.tokens[None][:, :9]).logits[0].log_softmax(-1)
    assert torch.equal(frozen, again)


@torch.no_grad()
def plain_logp(session: Session, who: str | None, record: Record) -> Tensor:
    """[L, V] by the plain model on the plain sequence."""
    session._put(session._holder(who))
    tokens = torch.from_numpy(record.segments[0].tokens)[None]
    learned = torch.from_numpy(record.segments[0].weights[1:] > 0)
    return session.base.model(input_ids=tokens).logits[0, :-1][learned].log_softmax(-1)


def test_a_teacher_is_another_snapshot() -> None:
    session = Session(base_of())
    session.create("old", Spec(ADAPTS["lora"], seed=1))
    moved(session, "old")
    teacher = session.publish("old")
    session.create("t", Spec(ADAPTS["lora"], seed=2, teacher=teacher))
    row = records()[3]
    found = session.forward_backward("t", [forest([row])], Distil("teacher"), 1.0)["loss"]
    p, q = plain_logp(session, "old", row), plain_logp(session, "t", row)
    assert float(found.num) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)


class Regress:
    """Squared error of the value head to 1 at each learned token and of the score head to 2 at each segment."""

    needs = frozenset({"value"})

    def count(self, batch: Forest) -> Tensor:
        return batch.weights.sum()

    def linear_weights(self, batch: Forest) -> None:
        return None

    def share(self, output: Any, batch: Forest) -> None:
        return None

    def __call__(self, output: Any, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        return Loss(((output.scalars["value"] - 1) ** 2).sum() + ((output.scalars["score"] - 2) ** 2).sum())


def test_scalar_heads_train_and_score() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], heads=("value", "score")))
    rows = records()
    first = session.forward_backward("t", [forest(rows)], Regress(), 1 / 50)["loss"]
    num = sum(r.num_learned for r in rows)
    assert float(first.num) == pytest.approx(num * 1 + 4 * forest(rows).num_segments)  # heads start at zero
    session.optim_step("t", 1e-2)
    for _ in range(30):
        last = session.forward_backward("t", [forest(rows)], Regress(), 1 / 50)["loss"]
        session.optim_step("t", 1e-2)
    assert float(last.num) < 0.5 * float(first.num)
    assert session.scores("t", [forest(rows)])[0].mean() > 0.5


class Pull:
    """L2 to a point, through each of the four places where a regulariser acts."""

    def __init__(self, strength: float) -> None:
        self.strength, self.seen, self.attached = strength, [], 0

    def attach(self, model: Any) -> Any:
        self.attached += 1

        def undo() -> None:
            self.attached -= 1

        return undo

    def term(self, output: Any, batch: Forest) -> Loss | None:
        return Loss(self.strength * output.hidden.pow(2).sum()) if self.strength else None

    def before_clip(self, params: dict[str, Tensor]) -> None:
        for p in params.values():
            if self.strength and p.grad is not None:
                p.grad.add_(p, alpha=self.strength)

    def on_update(self, update: int) -> None:
        self.seen.append(update)


def test_a_regulariser_acts_at_its_four_places_and_at_strength_0_is_the_identity() -> None:
    def tuned(*regularisers: Any) -> dict[str, Tensor]:
        session = Session(base_of())
        session.create("t", Spec(ADAPTS["lora"], regularisers=regularisers))
        moved(session, "t")
        return session.tenants["t"].masters

    plain, none, some = tuned(), tuned(Pull(0.0)), tuned(pull := Pull(0.1))
    assert all(torch.equal(plain[n], none[n]) for n in plain)
    assert any(not torch.equal(plain[n], some[n]) for n in plain)
    assert pull.seen == [1, 2, 3]
    assert pull.attached == 0


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
