"""Chunked functions of the logits by gradcheck and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tunesmith.models import chunked
from tunesmith.models.chunked import Projection, linear_loss, logp, over_rows

V, D, L = 7, 3, 5


@pytest.fixture(autouse=True)
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 2 * V)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((L, D), (V, D), (V,))]
    return *(x.requires_grad_() for x in made), torch.tensor([0, 6, 3, 3, 1])  # type: ignore[return-value]


@pytest.mark.parametrize("settings", [(1.0, None), (0.3, None), (2.0, 1.5), (1.0, None, True), (0.3, None, True)])
def test_gradcheck(settings: tuple[Any, ...]) -> None:
    *leaves, target = inputs()
    by = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.25], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, w, b: logp(h, Projection(w, b, *settings), target), leaves)
    assert torch.autograd.gradcheck(lambda h, w, b: linear_loss(h, Projection(w, b, *settings), target, by)[0], leaves)


def test_by_hand() -> None:
    """Logits (0, ln 3): probabilities 1/4 and 3/4. Soft-capped at ln 3: (0, ln 3 tanh 1)."""
    head = Projection(torch.tensor([[0.0], [math.log(3)]]), None)
    hidden, target = torch.ones(2, 1), torch.tensor([0, 1])
    torch.testing.assert_close(logp(hidden, head, target), torch.tensor([0.25, 0.75]).log())
    total, _ = linear_loss(hidden, head, target, torch.tensor([2.0, -1.0]))
    assert float(total) == pytest.approx(-2 * math.log(0.25) + math.log(0.75))
    capped = Projection(head.weight, None, softcap=math.log(3)).logits(hidden[:1])
    assert capped[0, 1].item() == pytest.approx(math.log(3) * math.tanh(1))
    assert Projection(head.weight, torch.tensor([1.0, 0.0]), scale=2.0).logits(hidden[:1])[0, 0].item() == 2.0


def test_questions_by_themselves_by_hand() -> None:
    """Logits (ln 3, 0): yes is 3/4 and 1/2. A softmax over all four answers takes ln 2 off each."""
    head = Projection(torch.tensor([[math.log(3)], [0.0]]), None, sigmoid=True)
    hidden, target = torch.ones(4, 1), torch.arange(4)
    wanted = torch.tensor([0.25, 0.75, 0.5, 0.5]).log()
    torch.testing.assert_close(logp(hidden, head, target), wanted)
    total, each = linear_loss(hidden, head, target, torch.tensor([1.0, 2.0, 0.0, 1.0]))
    assert float(total) == pytest.approx(-math.log(0.25) - 2 * math.log(0.75) - math.log(0.5))
    torch.testing.assert_close(each, wanted)
    torch.testing.assert_close(head.logits(hidden)[0].log_softmax(-1), wanted - math.log(2))


def test_a_frozen_head_makes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No [V, D] buffer is made: `zeros_like` is what makes one."""
    hidden, weight, bias, target = inputs()
    head = Projection(weight.detach(), None)
    monkeypatch.setattr(torch, "zeros_like", lambda *_, **__: pytest.fail("a gradient of the frozen weight was made"))
    linear_loss(hidden, head, target, torch.ones(L))[0].backward()
    logp(hidden, head, target).sum().backward()
    with pytest.raises(pytest.fail.Exception):
        linear_loss(hidden, Projection(weight, bias), target, torch.ones(L))


def test_the_one_pass_loss_is_scaled_by_what_comes_after() -> None:
    hidden, weight, _, target = inputs()
    total, _ = linear_loss(hidden, Projection(weight, None), target, torch.ones(L))
    (3 * total).backward()
    assert weight.grad is not None
    plain = torch.autograd.grad(-3 * logp(hidden, Projection(weight, None), target).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, plain)


def test_bf16_weights_gather_their_gradient_in_float32() -> None:
    """Many equal contributions: added in bf16 they would stop at 256 times the first."""
    num = 600
    weight = torch.zeros(V, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(num, 1, dtype=torch.bfloat16)
    linear_loss(hidden, Projection(weight, None), torch.zeros(num, dtype=torch.int64), torch.ones(num))[0].backward()
    assert weight.grad is not None
    assert float(weight.grad[0]) == pytest.approx(num * (1 / V - 1), rel=1e-2)


def test_over_rows() -> None:
    """Gradients of row tensors and of whole ones, beside rows that need none."""
    hidden, weight, _, _ = inputs()

    def fn(rows: Tensor, constant: Tensor, whole: Tensor, other: None) -> Tensor:
        assert rows.shape[0] <= 2
        return torch.stack([(rows @ whole.t()).exp().sum(-1), constant * rows.sum(-1)], -1)

    constant = torch.arange(L, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: over_rows(fn, 2, [h, constant], [w, None]), (hidden, weight))
    torch.testing.assert_close(over_rows(fn, 2, [hidden, constant], [weight, None])[:, 1], constant * hidden.sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_by_pieces_has_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last piece is short. The mutant that adds in few bits differs."""
    monkeypatch.setattr(chunked, "PIECE", 7)
    generator = torch.Generator().manual_seed(0)
    total, more = (torch.randn(5, 9, generator=generator) for _ in range(2))
    more = more.to(dtype)
    wanted = total + more
    rough = (total.to(dtype) + more).float()
    assert torch.equal(rough, wanted) == (dtype == torch.float32)
    chunked.add_to(total, more)
    assert torch.equal(total, wanted)
