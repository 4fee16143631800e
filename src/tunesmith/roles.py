"""The four roles that are passed into the loop, and the seam for text generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from tunesmith.types import Attempt, Completion, Forest, Grade, Loss, Shared


class Output(Protocol):
    """Hidden states first: what an objective may ask of a forward pass. Implemented in `models/forward.py`."""

    hidden: Tensor  # [N, D] after the final norm
    at: Tensor  # [L] index of the predicting position
    target: Tensor  # [L] token to be predicted
    weight: Tensor  # [L]; 0 may be scored but is not learned
    segment: Tensor  # [L] segment of the target token
    scalars: dict[str, Tensor]  # {"value": [L], "score": [S]} from heads; scores of a reward model alone

    def logp(self) -> Tensor: ...  # [L] nats
    def over_vocab(
        self, fn: Callable[..., Tensor], *others: Any
    ) -> Tensor: ...  # fn(logits chunk, …) -> [c, k]; [L, k]
    def pooled(self, how: str) -> Tensor: ...  # [S, D], how: "last" | "mean" | "first"
    def select(self, rows: Tensor) -> Output: ...  # the same, asked about these of its L rows


class Objective(Protocol):
    # of {"reference", "teacher", "shared", "old_logp", "value"}; and "held": nothing is learned through what is shared
    needs: frozenset[str]

    def count(self, batch: Forest) -> Tensor: ...  # [] units, known before the forward pass; a sum, never negative
    def linear_weights(self, batch: Forest) -> Tensor | None: ...  # [L] where the loss is linear in logp: -sum w logp
    def share(self, output: Output, batch: Forest) -> Tensor: ...  # [U, K]; called where `needs` has "shared"
    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss: ...


class Noise(Protocol):
    """What drawn noise is keyed by, for the micro-batch that runs. Implemented in `models/noise.py`."""

    seed: int  # of tenant and update

    @property
    def keys(self) -> Tensor | None: ...  # [N] int64, a hash of each token's path from its root; None: nothing runs
    @property
    def lengths(self) -> Tensor | None: ...  # [N] int64, tokens on the longest way from root to leaf through each


@dataclass(frozen=True, slots=True)
class LowRank:
    """One adapted layer: its weight is changed by scale * B A."""

    module: str  # dotted name in the model
    a: str  # names of the tensors
    b: str
    scale: float


@dataclass(frozen=True, slots=True)
class Site:
    """What a regulariser sees of the tenant that it acts on. Tensors by the tenant's names for them."""

    model: nn.Module
    live: Mapping[str, nn.Parameter]  # in the model; they hold the tenant's values where something is attached
    masters: Mapping[str, Tensor]  # float32
    neutral: Mapping[str, Tensor]  # values at which the tenant is the untouched base
    trainable: frozenset[str]
    pairs: tuple[LowRank, ...]  # LoRA; empty where weights of the model itself train
    noise: Noise
    seed: int
    update: int  # updates done before this one


class Regulariser(Protocol):
    """Acts at four points of an update; strength 0 is bitwise the identity. What is left out does nothing."""

    needs: frozenset[str] = frozenset()  # of {"reference"}: what `term` finds in `others`

    def attach(self, site: Site) -> Callable[[], None]:
        """Before the forward passes of an update; may be called several times in one. Returns its undo."""
        return lambda: None

    def term(self, output: Output, batch: Forest, others: Mapping[str, Output]) -> Loss | None:
        """Added to the loss of a micro-batch: a sum over its units, like the objective's."""
        return None

    def before_clip(self, site: Site) -> None:
        """Once an update, when the masters hold its whole gradient."""
        return

    def on_update(self, site: Site) -> None:
        """After the step; `site.update` counts it."""
        return

    def state(self) -> dict[str, Tensor]:
        """What a resume needs of it."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        return


class Foretold(Protocol):
    """What is known of a feed before it gives anything."""

    @property
    def num_updates(self) -> int: ...
    @property
    def updates_per_epoch(self) -> int: ...
    def num_seen(self, num_updates: int) -> int: ...  # examples that the first updates hold, each counted once
    def shares(self, num_updates: int) -> Sequence[Any]: ...  # what each source came to in the first updates
    def heaviest(self) -> list[Forest]: ...  # the micro-batches of the update with most tokens
    def shape(self) -> dict[str, Any]: ...  # facts for the plan


class Feed(Protocol):
    """Gives the micro-batches of one update. Its position is data, so that it can be saved and restored."""

    told: Mapping[str, float]  # how what was given last came to be, for people

    @property
    def updates_per_epoch(self) -> int: ...
    def update(self) -> list[Forest]: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


class Generator(Protocol):
    def __call__(self, prompts: Sequence[Sequence[int]], **limits: Any) -> list[Completion]: ...


class Reward(Protocol):
    """What sampled replies are worth, in their order. A reply that cannot be graded has the least value and says why;
    a grader that fails by itself raises."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]: ...


class Listener(Protocol):
    """Called after each update; evaluates, saves, logs, unfreezes."""

    def __call__(self, update: int, facts: dict[str, float]) -> None: ...
