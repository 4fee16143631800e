"""The gradient of one example's loss, of which nothing is learned."""

from __future__ import annotations

from torch import Tensor

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.objectives.sft import SFT
from tunesmith.types import Record


def gradient(session: Session, name: str, record: Record) -> dict[str, Tensor]:
    """By the names of the tenant's tensors, float32. The tenant may have nothing pending."""
    session.forward_backward(name, [forest([record])], SFT(), 1.0)
    found = dict(session.tenants[name].pending)
    session.forget_gradients(name)
    return found


def norm(gradients: dict[str, Tensor]) -> float:
    return sum(float(g.square().sum()) for g in gradients.values()) ** 0.5


def dot(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name] * value).sum()) for name, value in other.items())
