"""What an objective may ask for, each with a plain twin: shares, references, teachers, heads; and regularisers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved, records
from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.calls import count_calls
from tunesmith.roles import Regulariser
from tunesmith.types import Forest, Loss, Record, Shared


class Contrast:
    """Supervised contrastive loss over all examples of an update, whatever micro-batch they are in (a test's twin of
    what `share` is for): the label of an example is the parity of its index."""

    needs = frozenset({"shared"})

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
        return Loss(((output.scalars["value"] - 1) ** 2).sum())


def test_a_value_head_trains() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], heads=("value",)))
    rows = records()
    first = session.forward_backward("t", [forest(rows)], Regress(), 1 / 50)["loss"]
    num = sum(r.num_learned for r in rows)
    assert float(first.num) == pytest.approx(num * 1)  # it starts at zero
    session.optim_step("t", 1e-2)
    for _ in range(30):
        last = session.forward_backward("t", [forest(rows)], Regress(), 1 / 50)["loss"]
        session.optim_step("t", 1e-2)
    assert float(last.num) < 0.5 * float(first.num)


class Pull(Regulariser):
    """L2 to a point, through each of the four places where a regulariser acts."""

    def __init__(self, strength: float) -> None:
        self.strength, self.seen, self.attached = strength, [], 0

    def attach(self, site: Any) -> Any:
        self.attached += 1

        def undo() -> None:
            self.attached -= 1

        return undo

    def term(self, output: Any, batch: Forest, others: Any) -> Loss | None:
        return Loss(self.strength * output.hidden.pow(2).sum()) if self.strength else None

    def before_clip(self, site: Any) -> None:
        for p in site.masters.values():
            if self.strength and p.grad is not None:
                p.grad.add_(p, alpha=self.strength)

    def on_update(self, site: Any) -> None:
        self.seen.append(site.update)


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


def test_an_objective_that_shares_nothing_costs_one_forward_pass() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"]))
    with count_calls() as calls:
        gradient(session, "t", [forest(records())])
    assert calls.num == len(session.base.model.model.layers)
    with count_calls() as calls:
        gradient(session, "t", [forest(records())], Contrast())
    assert calls.num == 2 * len(session.base.model.model.layers)
