"""Distillation: the formula, the sum over the vocabulary by hand, and a cut of an update that changes nothing."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved, records
from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.load import Base
from tunesmith.objectives.distil import Distil, Distilled, tempered_kl
from tunesmith.objectives.goal import Goal, objective
from tunesmith.objectives.sft import SFT
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Shared


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_formula() -> None:
    """The mutants, the other direction and no T^2, are others."""
    mine, theirs = drawn(5, 11, seed=0), drawn(5, 11, seed=1)
    p, q = (mine / 3).softmax(-1), (theirs / 3).softmax(-1)
    forward, back = 9 * (q * (q / p).log()).sum(-1), 9 * (p * (p / q).log()).sum(-1)
    assert torch.allclose(tempered_kl(mine, theirs, 3, reverse=False), forward, rtol=0, atol=1e-12)
    assert torch.allclose(tempered_kl(mine, theirs, 3, reverse=True), back, rtol=0, atol=1e-12)
    assert not torch.allclose(forward, back)
    more = torch.cat([theirs, 9 + drawn(5, 4, seed=2)], -1)  # rows of an embedding that no token has
    assert torch.equal(tempered_kl(mine, more, 3, reverse=False), tempered_kl(mine, theirs, 3, reverse=False))
    leaf = mine.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tempered_kl(x, theirs, 3, reverse=False), (leaf,))
    [slope] = torch.autograd.grad(tempered_kl(leaf, theirs, 3, reverse=False).sum(), leaf)
    assert torch.allclose(slope, 3 * (p - q).detach())  # T, not 1 / T: T^2 keeps its size


def taught(adapt: str, teacher: Base) -> Session:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS[adapt], teacher=teacher))
    moved(session, "t")
    return session


def other(family: str = "llama") -> Base:
    """Another width and depth, and more rows of the embedding, than the model that learns."""
    shape = {"llama": {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 64}, "bloom": {"vocab_size": 61}}
    return base_of(family, seed=7, **shape[family])


class MeanOfMeans(Distilled):
    """Mutant: a mean in each micro-batch."""

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        found = super().__call__(output, batch, shared, others)
        return Loss(found.total * 5 / self.count(batch), found.stats)


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_an_update_is_the_same_however_it_is_cut_and_packed(adapt: str) -> None:
    session, rows = taught(adapt, other()), records()
    asked = Distil(0.7, "beside", 2.0)
    ways = [forest(part) for part in (rows[:1], rows[1:8], rows[8:])]
    whole = gradient(session, "t", [forest(rows)], Distilled(SFT(), asked))
    assert largest(whole, gradient(session, "t", ways, Distilled(SFT(), asked))) < 1e-5
    apart = gradient(session, "t", [forest(rows[::-1], share_prefix=False)], Distilled(SFT(), asked))
    assert largest(whole, apart) < 1e-5
    mutant = MeanOfMeans(SFT(), asked)
    assert largest(gradient(session, "t", [forest(rows)], mutant), gradient(session, "t", ways, mutant)) > 1e-3
    assert largest(whole, gradient(session, "t", [forest(rows)], SFT())) > 1e-2


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_it_is_the_plain_sum_over_the_vocabulary(family: str, kl: Literal["forward", "reverse"]) -> None:
    """Of a teacher of either layout (Bloom is padded)."""
    teacher = other(family)
    session, row = taught("lora", teacher), records()[5]
    tokens, learned = torch.from_numpy(row.segments[0].tokens)[None], torch.from_numpy(row.segments[0].weights[1:]) > 0
    found = session.forward_backward("t", [forest([row])], Distilled(SFT(), Distil(1.0, "beside", 2.0, kl)), 1.0)
    session._put(session._holder("t"))
    with torch.no_grad():
        mine, theirs = (
            model(input_ids=tokens).logits[0, :-1][learned].double()[:, :61] / 2
            for model in (session.base.model, teacher.model)
        )
    p, q = mine.log_softmax(-1), theirs.log_softmax(-1)
    p, q = (p, q) if kl == "reverse" else (q, p)
    wanted = 4 * float((p.exp() * (p - q)).sum())
    assert float(found["distil_nats_per_token"].num) == pytest.approx(wanted, rel=1e-4)
    assert float(found["loss"].num) == pytest.approx(wanted, rel=1e-4)


def test_a_teacher_that_agrees_teaches_nothing_and_no_share_is_no_teacher() -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], teacher=base_of()))
    found = gradient(session, "t", [forest(records())], Distilled(SFT(), Distil(1.0, "beside")))
    assert max(float(g.abs().max()) for g in found.values()) < 1e-6
    assert type(objective(Goal(), {})) is SFT
    assert type(objective(Goal(distil=Distil(0.5, "beside")), {})) is Distilled
