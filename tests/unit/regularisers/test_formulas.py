"""Formulas of the regularisers against their definitions, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tunesmith.regularisers.average import towards_base
from tunesmith.regularisers.kl import kl
from tunesmith.regularisers.l2sp import low_rank_gradient
from tunesmith.regularisers.mixout import mixout
from tunesmith.regularisers.neftune import noise
from tunesmith.regularisers.rdrop import symmetric_kl, twins
from tunesmith.regularisers.strengths import Regularise, regularisers
from tunesmith.roles import LowRank


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mixout_by_all_masks(p: float) -> None:
    """E[w~] = w and E|w~ - w|^2 = p / (1 - p) |w - u|^2, summed over every mask of four entries."""
    w, u = drawn(4), drawn(4, seed=1)
    mean, spread = torch.zeros_like(w), torch.zeros((), dtype=torch.float64)
    for mask in itertools.product([True, False], repeat=4):
        chance = (1 - p) ** sum(mask) * p ** (4 - sum(mask))
        mixed = mixout(w, u, torch.tensor(mask), p)
        mean += chance * mixed
        spread += chance * (mixed - w).square().sum()
    assert torch.allclose(mean, w, rtol=0, atol=1e-12)
    assert float(spread) == pytest.approx(float(p / (1 - p) * (w - u).square().sum()), rel=1e-12)


def test_mixout_at_its_corners() -> None:
    w, u, kept = drawn(5), drawn(5, seed=1), torch.tensor([True, False, True, True, False])
    assert torch.equal(mixout(u, u, kept, 0.3), u)
    assert torch.allclose(mixout(w, torch.zeros_like(w), kept, 0.3), w * kept / 0.7)  # dropout on weights
    paper = ((~kept) * u + kept * w - 0.3 * u) / 0.7
    assert torch.allclose(mixout(w, u, kept, 0.3), paper, rtol=0, atol=1e-14)
    w.requires_grad_()
    [gradient] = torch.autograd.grad(mixout(w, u, kept, 0.3).sum(), w)
    assert torch.allclose(gradient, kept.double() / 0.7)


def test_l2sp_of_a_low_rank_change_is_that_of_the_product() -> None:
    """The mutant, a pull on the factors by themselves, is another one."""
    a, b = drawn(3, 7).requires_grad_(), drawn(5, 3, seed=1).requires_grad_()
    wanted = torch.autograd.grad((2.5 * b @ a).square().sum() / 2, (a, b))
    found = low_rank_gradient(a.detach(), b.detach(), 2.5)
    assert all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(found, wanted))
    assert not torch.allclose(wanted[0], a)
    nothing = low_rank_gradient(a.detach(), torch.zeros_like(b), 2.5)
    assert not any(t.any() for t in nothing)  # at the base there is no pull


def test_divergences() -> None:
    one, two = drawn(6, 11), drawn(6, 11, seed=1)
    p, q = one.softmax(-1), two.softmax(-1)
    there, back = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    assert torch.allclose(kl(one, two), there, rtol=0, atol=1e-12)
    assert torch.allclose(symmetric_kl(one, two), (there + back) / 2, rtol=0, atol=1e-12)
    assert float(kl(one, one + 3).abs().max()) < 1e-12
    assert not torch.allclose(there, back)
    for divergence in (kl, symmetric_kl):
        assert torch.autograd.gradcheck(divergence, (one.requires_grad_(), two.requires_grad_()))


def test_twins_stand_side_by_side() -> None:
    first, second = twins(torch.tensor([0, 0, 1, 1, 1, 1, 3, 3]))
    assert first.tolist() == [0, 2, 3, 6]
    assert second.tolist() == [1, 4, 5, 7]


def test_noise_of_embeddings_has_the_papers_size() -> None:
    """Bound alpha / sqrt(L D), uniform inside it; L is the example's own length. The mutant: one length for all."""
    keys = torch.arange(4000) * 7919
    lengths = torch.where(torch.arange(4000) < 2000, 16, 400)
    found = noise(keys, lengths, 8, seed=3, alpha=5.0).double()
    for part, length in ((found[:2000], 16), (found[2000:], 400)):
        bound = 5 / (length * 8) ** 0.5
        assert float(part.abs().max()) <= bound
        assert float(part.abs().max()) > 0.999 * bound
        assert float(part.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert abs(float(part.mean())) < 0.02 * bound
    assert torch.equal(found, noise(keys, lengths, 8, seed=3, alpha=5.0).double())
    other = noise(keys, lengths, 8, seed=4, alpha=5.0).double()
    assert abs(float(torch.corrcoef(torch.stack([found[:2000].flatten(), other[:2000].flatten()]))[0, 1])) < 0.02


def test_the_way_to_the_base() -> None:
    pair = LowRank("m", "m.lora_A.weight", "m.lora_B.weight", 2.0)
    values = {pair.a: drawn(3, 7), pair.b: drawn(5, 3, seed=1), "heads.x": drawn(2, seed=2)}
    neutral = {n: torch.zeros_like(v) for n, v in values.items()}
    half = towards_base(values, neutral, (pair,), 0.25)
    assert torch.allclose(half[pair.b] @ half[pair.a], 0.75 * values[pair.b] @ values[pair.a])
    assert torch.allclose(half["heads.x"], 0.75 * values["heads.x"])
    same, base = towards_base(values, neutral, (pair,), 0.0), towards_base(values, neutral, (pair,), 1.0)
    assert all(torch.equal(same[n], values[n]) for n in values)
    assert torch.equal(base[pair.b], neutral[pair.b])
    weights, start = {"w": drawn(4, 4)}, {"w": drawn(4, 4, seed=1)}
    assert torch.allclose(towards_base(weights, start, (), 0.3)["w"], 0.7 * weights["w"] + 0.3 * start["w"])
    assert torch.equal(towards_base(weights, start, (), 1.0)["w"], start["w"])


def test_what_is_asked_for_is_made_and_nothing_else() -> None:
    assert regularisers(Regularise(), {}) == ()
    made = regularisers(Regularise(rdrop=1, mixout=0.1, kl=0.2, ewc=3), {})
    assert [type(r).__name__ for r in made] == ["Mixout", "EWC", "KLToBase", "RDrop"]
