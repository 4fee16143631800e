"""The four roles that are passed into the loop, and the seam for text generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from tunesmith.types import Completion, Forest, Loss, Shared


class Output(Protocol):
    """Hidden states first: what an objective may ask of a forward pass. Implemented in `models/forward.py`."""

    hidden: Tensor  # [N, D] after the final norm
    at: Tensor  # [L] index of the predicting position
    target: Tensor  # [L] token to be predicted
    weight: Tensor  # [L]; 0 may be scored but is not learned
    segment: Tensor  # [L] segment of the target token
    scalars: dict[str, Tensor]  # {"value": [L], "score": [S]} from heads

    def logp(self) -> Tensor: ...  # [L] nats
    def over_vocab(
        self, fn: Callable[..., Tensor], *others: Any
    ) -> Tensor: ...  # fn(logits chunk, …) -> [c, k]; [L, k]
    def pooled(self, how: str) -> Tensor: ...  # [S, D], how: "last" | "mean" | "first"


class Objective(Protocol):
    needs: frozenset[str]  # of {"reference", "teacher", "shared", "old_logp", "value"}

    def count(self, batch: Forest) -> Tensor: ...  # [] units, known before the forward pass; a sum, never negative
    def linear_weights(self, batch: Forest) -> Tensor | None: ...  # [L] where the loss is linear in logp: -sum w logp
    def share(self, output: Output, batch: Forest) -> Tensor: ...  # [U, K]; called where `needs` has "shared"
    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss: ...


class Regulariser(Protocol):
    """Acts at four points of an update; strength 0 is bitwise the identity."""

    def attach(self, model: nn.Module) -> Callable[[], None]: ...  # returns its undo
    def term(self, output: Output, batch: Forest) -> Loss | None: ...
    def before_clip(self, params: dict[str, Tensor]) -> None: ...
    def on_update(self, update: int) -> None: ...


class Feed(Protocol):
    """Gives the micro-batches of one update. Its position is data, so that it can be saved and restored."""

    def update(self) -> list[Forest]: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


class Generator(Protocol):
    def __call__(self, prompts: Sequence[Sequence[int]], **limits: Any) -> list[Completion]: ...


class Listener(Protocol):
    """Called after each update; evaluates, saves, logs, unfreezes."""

    def __call__(self, update: int, facts: dict[str, float]) -> None: ...
