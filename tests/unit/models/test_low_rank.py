"""LoRA in one piece against peft's own layer: values and gradients, and where it leaves the layer to peft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved, records
from torch import Tensor, nn

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models import low_rank
from tunesmith.models.low_rank import OnePiece, Product, in_one_piece


def layer(bias: bool, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7, bias=bias)).double().requires_grad_(False)
        config = LoraConfig(r=3, lora_alpha=4, target_modules=["0"], init_lora_weights=False, **options)
        return inject_adapter_in_model(config, model).double()


def outcome(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and gradients of the input and of what trains."""
    x = x.clone().requires_grad_()
    y = model(x)
    trained = [p for n, p in model.named_parameters() if "lora_" in n]
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *trained])]


X = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_value_and_gradients_are_peft_s(bias: bool, rslora: bool) -> None:
    plain, one = (layer(bias, use_rslora=rslora) for _ in range(2))
    in_one_piece(one)
    assert type(one[0]) is OnePiece  # type: ignore[index]
    for found, wanted in zip(outcome(one, X), outcome(plain, X), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def without_scale(ctx: Any, d_out: Tensor) -> tuple:
    """A mutant of the backward: B's gradient is that of a scale of 1."""
    *before, d_b, after = Product.backward(ctx, d_out)
    return *before, d_b / ctx.scale, after


def without_low(ctx: Any, d_out: Tensor) -> tuple:
    """Another: the input's gradient goes through the frozen weight alone."""
    return d_out @ ctx.saved_tensors[2], *Product.backward(ctx, d_out)[1:]


@pytest.mark.parametrize("backward", [without_scale, without_low])
def test_a_wrong_backward_is_seen(backward: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = type("Wrong", (torch.autograd.Function,), {"forward": Product.forward, "backward": staticmethod(backward)})
    plain, one = (layer(False) for _ in range(2))
    in_one_piece(one)
    monkeypatch.setattr(low_rank, "Product", wrong)
    off = [float((a - b).detach().abs().max()) for a, b in zip(outcome(one, X), outcome(plain, X), strict=True)]
    assert off[0] < 1e-12
    assert max(off) > 1e-2


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}], ids=lambda o: next(iter(o))
)
def test_what_is_not_in_the_formula_is_left_to_peft(options: dict[str, Any]) -> None:
    plain, one = (layer(True, **options).train() for _ in range(2))
    in_one_piece(one)
    assert one[0].plain_adapter(X) is None  # type: ignore[index]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = outcome(plain, X)
        torch.manual_seed(0)
        assert all(torch.equal(a, b) for a, b in zip(outcome(one, X), wanted, strict=True))


def test_the_base_without_its_adapter_is_the_base() -> None:
    model = layer(True)
    in_one_piece(model)
    one: Any = model[0]  # type: ignore[index]
    one.enable_adapters(False)
    assert torch.equal(model(X), one.base_layer(X))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "mixtral", "gpt2"])
def test_a_model_learns_as_with_peft_s_layers(family: str) -> None:
    """GPT-2's layers are no linear ones, and stay peft's."""
    found = []
    for is_plain in (False, True):
        session = Session(base_of(family))
        session.create("t", Spec(ADAPTS["lora"]))
        kinds = {type(m) for m in session.base.model.modules() if isinstance(m, Linear)}
        assert kinds == {Linear if family == "gpt2" else OnePiece}
        if is_plain:
            for module in session.base.model.modules():
                if type(module) is OnePiece:
                    module.__class__ = Linear
        moved(session, "t")
        found.append(gradient(session, "t", [forest(records())]))
    assert largest(*found) < 1e-4
