"""What matters for general text, measured on the base: against sums over the whole vocabulary, and against KL."""

from __future__ import annotations

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, records
from torch import Tensor
from torch.func import functional_call

from tunesmith.engine.fisher import fisher
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.load import Base
from tunesmith.regularisers.ewc import EWC, low_rank_gradient
from tunesmith.types import Record

NAME = "model.layers.1.mlp.down_proj.weight"


def wide() -> Base:
    base = base_of()
    base.model.double()
    return base


def by_hand(base: Base, rows: list[Record], name: str) -> Tensor:
    """sum_v p_v (d log p_v / d w)^2, of every learned token, one by one."""
    weight = dict(base.model.named_parameters())[name].requires_grad_(True)
    total, num = torch.zeros_like(weight), 0
    for row in rows:
        segment = row.segments[0]
        logits = base.model(input_ids=torch.from_numpy(segment.tokens)[None]).logits[0, :-1]
        logp = logits[torch.from_numpy(segment.weights[1:]) > 0].log_softmax(-1)
        for at in logp:
            for each in at:
                [slope] = torch.autograd.grad(each, weight, retain_graph=True)
                total += float(each.detach().exp()) * slope.square()
            num += 1
    weight.requires_grad_(False)
    return total / num


def test_it_is_the_mean_over_what_the_base_would_say() -> None:
    """The mutant, the square of the data's own gradient, is another quantity."""
    rows = records(2, seed=4)
    wanted = by_hand(wide(), rows, NAME)
    base, seeds = wide(), range(200)
    found = [fisher(base, ADAPTS["last_k"], rows, s)[NAME] for s in seeds]
    mean = torch.stack(found).mean(0)
    apart = float((mean - wanted).abs().sum() / wanted.abs().sum())
    assert apart < 0.1
    assert float(mean.sum()) == pytest.approx(float(wanted.sum()), rel=0.1)
    weight = dict(base.model.named_parameters())[NAME].requires_grad_(True)
    data = torch.zeros_like(weight)
    for row in rows:
        tokens, learned = (torch.from_numpy(x) for x in (row.segments[0].tokens, row.segments[0].weights))
        logp = base.model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
        total = (logp.gather(1, tokens[1:, None])[:, 0] * (learned[1:] > 0)).sum()
        data += torch.autograd.grad(total, weight)[0].square()
    empirical = data / sum(int((r.segments[0].weights > 0).sum()) for r in rows)
    assert float((empirical - wanted).abs().sum() / wanted.abs().sum()) > 0.3


def test_half_of_it_times_a_small_change_is_the_kl_that_the_change_makes() -> None:
    base, rows = wide(), records(3, seed=4)
    wanted = by_hand(base, rows, NAME)
    row, column = divmod(int(wanted.argmax()), wanted.shape[1])
    change = 1e-3
    moved = {n: p.clone() for n, p in base.model.named_parameters()}
    moved[NAME][row, column] += change
    total, num = 0.0, 0
    for each in rows:
        tokens, learned = (torch.from_numpy(x) for x in (each.segments[0].tokens, each.segments[0].weights))
        logps = [
            functional_call(base.model, values, (), {"input_ids": tokens[None]}).logits[0, :-1].log_softmax(-1)
            for values in (dict(base.model.named_parameters()), moved)
        ]
        total += float(((logps[0].exp() * (logps[0] - logps[1])).sum(-1) * (learned[1:] > 0)).sum())
        num += int((learned[1:] > 0).sum())
    assert total / num == pytest.approx(float(wanted[row, column]) * change**2 / 2, rel=1e-2)


def test_of_a_low_rank_change_the_pull_is_that_of_the_product() -> None:
    """The mutant, a Fisher of ones, is L2-SP."""
    drawn = torch.Generator().manual_seed(0)
    a, b, weighs = (torch.randn(*s, dtype=torch.float64, generator=drawn) for s in ((3, 7), (5, 3), (5, 7)))
    weighs = weighs.square()
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    wanted = torch.autograd.grad((weighs * (2.5 * leaves[1] @ leaves[0]).square()).sum() / 2, leaves)
    found = low_rank_gradient(a, b, 2.5, weighs)
    assert all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(found, wanted))
    assert not torch.allclose(low_rank_gradient(a, b, 2.5, torch.ones_like(weighs))[0], wanted[0])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_it_has_the_shape_of_what_an_adapter_adds(family: str) -> None:
    """Also where weights stand the other way round (GPT-2), and in the padded layout. The base is left as it was."""
    base = base_of(family)
    before = {n: p.clone() for n, p in base.model.named_parameters()}
    found = fisher(base, ADAPTS["lora"], records(2), seed=0)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in base.model.named_parameters())
    again = fisher(base, ADAPTS["lora"], records(2)[::-1], seed=0)
    assert all(torch.allclose(found[n], again[n]) for n in found)
    session = Session(base)
    session.create("t", Spec(ADAPTS["lora"], regularisers=(EWC(1.0, found),)))
    pairs = session.tenants["t"].slot.pairs
    assert {f"{p.module}.weight" for p in pairs} == set(found)
    for pair in pairs:
        masters = session.tenants["t"].masters
        assert found[f"{pair.module}.weight"].shape == (masters[pair.b].shape[0], masters[pair.a].shape[1])
    assert any(bool(f.any()) for f in found.values())
