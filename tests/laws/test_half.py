"""In bfloat16 the compiled path is as near to a float32 reference as transformers' own bfloat16 is, or nearer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, records
from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models import low_rank
from tunesmith.models.adapters import Adapt, layers_of
from tunesmith.objectives.sft import SFT

SHAPE = {"hidden_size": 64, "intermediate_size": 160}
ROWS = records(24)


def session_of(adapt: Adapt, family: str, dtype: torch.dtype) -> Session:
    """The same weights in each, which bfloat16 holds exactly; LoRA's B is not 0."""
    base = base_of(family, **SHAPE)
    base.model.bfloat16().to(dtype)
    session = Session(base)
    session.create("t", Spec(adapt))
    generator = torch.Generator().manual_seed(0)
    for name, master in sorted(session.tenants["t"].masters.items()):
        if "lora_B" in name:
            master.normal_(std=0.05, generator=generator)
        master.copy_(master.bfloat16())
    return session


def of_the_engine(session: Session) -> tuple[float, dict[str, Tensor]]:
    """By the kernel, as when layers are compiled; the layers themselves stay as they are, which is quick."""
    for layer in layers_of(session.base.model):
        layer.compile(backend="eager", dynamic=True)
    stats = session.forward_backward("t", [forest(ROWS)], SFT(), 1.0)
    tenant = session.tenants["t"]
    found = dict(tenant.pending)
    tenant.forget_gradients()
    return float(stats["loss"].num), found


def of_transformers(session: Session) -> tuple[float, dict[str, Tensor]]:
    """Row by row through the model's own attention and head; gradients of rows are added in float32."""
    session.logprobs("t", [forest(ROWS)])  # its weights are put into the model
    slot, model = session.tenants["t"].slot, session.base.model
    total, found = 0.0, {n: torch.zeros_like(p, dtype=torch.float32) for n, p in slot.live.items()}
    for row in ROWS:
        [segment] = row.segments
        tokens = torch.as_tensor(segment.tokens)
        weights = torch.as_tensor(segment.weights)[1:]
        for p in slot.live.values():
            p.requires_grad_(True)
        logp = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        loss = -(logp.gather(1, tokens[1:, None])[:, 0] * weights).sum()
        for name, grad in zip(slot.live, torch.autograd.grad(loss, list(slot.live.values()))):
            found[name] += grad
        total += float(loss.detach())
    return total, found


def distances(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """1 - cosine, of each matrix."""
    cosine = torch.nn.functional.cosine_similarity
    return torch.stack([1 - cosine(found[n].flatten(), wanted[n].flatten(), 0) for n in wanted if wanted[n].dim() > 1])


@pytest.mark.parametrize("adapt", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_bfloat16_is_at_least_as_near_as_transformers_own(family: str, adapt: str) -> None:
    loss, exact = of_transformers(session_of(ADAPTS[adapt], family, torch.float32))
    their_loss, theirs = of_transformers(session_of(ADAPTS[adapt], family, torch.bfloat16))
    our_loss, ours = of_the_engine(session_of(ADAPTS[adapt], family, torch.bfloat16))
    near, far = distances(ours, exact), distances(theirs, exact)
    assert float(near.mean()) <= 1.05 * float(far.mean())  # 0.92 to 1.01 were seen: residuals are rounded alike
    assert bool((near <= 2.5 * far).all())
    assert abs(our_loss - loss) <= 2 * abs(their_loss - loss) + 1e-3 * loss


def test_few_bits_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what enters LoRA's B is rounded to four bits."""
    plain = low_rank.Product

    class Rough(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Any) -> Tensor:
            out = plain.forward(ctx, *given)
            x, low, *others = ctx.to_save
            step = low.abs().amax() / 8
            ctx.save_for_backward(x, (low / step).round() * step, *others)
            return out

        backward = plain.backward

    exact = of_transformers(session_of(ADAPTS["lora"], "llama", torch.float32))[1]
    theirs = of_transformers(session_of(ADAPTS["lora"], "llama", torch.bfloat16))[1]
    monkeypatch.setattr(low_rank, "Product", Rough)
    ours = of_the_engine(session_of(ADAPTS["lora"], "llama", torch.bfloat16))[1]
    assert float(distances(ours, exact).mean()) > 1.2 * float(distances(theirs, exact).mean())
