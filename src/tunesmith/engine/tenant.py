"""A tenant: everything that belongs to one fine-tune and not to the base that it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunesmith.engine.optim import AdamW, build
from tunesmith.errors import PlanError, RunError
from tunesmith.models.adapters import Adapt, Slot, initial_values, keyed_generator
from tunesmith.models.chunked import add_to
from tunesmith.models.depth import factors
from tunesmith.models.load import Base
from tunesmith.models.noise import key_of
from tunesmith.roles import Regulariser
from tunesmith.types import Forest


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Weights as they were when they were published: they never move again."""

    name: str
    slot: Slot
    values: dict[str, Tensor]  # clones, float32


Who = str | Snapshot | None  # a tenant by its name, a snapshot, or the untouched base


def begun_prompts(holder: Tenant | Snapshot | None, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """With the tokens that prompt tuning puts before every sequence of this tenant."""
    before = () if holder is None else holder.slot.before
    return [[*before, *prompt] for prompt in prompts] if before else prompts


@dataclass(frozen=True, slots=True)
class Spec:
    """What `Session.create` needs. Reference and teacher are what `Objective.needs` names; None is the base."""

    adapt: Adapt = field(default_factory=Adapt)
    optim: AdamW = field(default_factory=AdamW)
    seed: int = 0
    heads: tuple[str, ...] = ()  # of {"value"}
    regularisers: tuple[Regulariser, ...] = ()
    reference: Snapshot | None = None
    teacher: Snapshot | Base | None = None  # a Base: another model, loaded beside
    by_depth: float = 1.0  # each layer's rate is that of the one above divided by this


@dataclass(slots=True)
class Tenant:
    """Float32 masters, optimizer, pending gradients, and which of its tensors train."""

    name: str
    spec: Spec
    slot: Slot
    masters: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    trainable: frozenset[str]
    num_updates: int = 0
    pending: dict[str, Tensor] = field(default_factory=dict)
    pending_ids: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, name: str, spec: Spec, slot: Slot, depth: dict[str, int]) -> Tenant:
        """`depth`: of each tensor, where rates go by depth."""
        masters = initial_values(slot, spec.seed)
        return cls(
            name, spec, slot, masters, build(masters, spec.optim, factors(depth, spec.by_depth)), frozenset(masters)
        )

    def take_gradients(self, part: Callable[[Tensor], Tensor]) -> None:
        """Move `part` of the gradients of the live parameters into `pending`, in float32, and clear them."""
        for name in sorted(self.trainable):
            gradient = self.slot.live[name].grad
            if gradient is None:
                continue
            self.slot.live[name].grad = None
            gradient = part(gradient).contiguous()
            if name in self.pending:
                add_to(self.pending[name], gradient)
            else:
                self.pending[name] = gradient.float()

    def forget_gradients(self) -> None:
        self.pending, self.pending_ids = {}, []
        for parameter in self.slot.live.values():
            parameter.grad = None

    def select(self, names: Sequence[str]) -> None:
        """Train these tensors only. The others keep their bits; their optimizer state is dropped."""
        unknown = sorted(set(names) - set(self.masters))
        if unknown:
            raise PlanError(
                f"tenant {self.name} has no tensor {unknown[0]!r}; its tensors: {', '.join(list(self.masters)[:4])} …"
            )
        self.trainable = frozenset(names)
        for name, master in self.masters.items():
            if name not in self.trainable:
                self.optimizer.state.pop(master, None)
                self.pending.pop(name, None)

    def start_from(self, values: dict[str, Tensor]) -> None:
        """Masters from elsewhere, before the first update. Raises RunError where they are not of this shape."""
        wrong = sorted(set(values) ^ set(self.masters)) or [
            n for n in values if values[n].shape != self.masters[n].shape
        ]
        if wrong:
            raise RunError(f"the adapter does not fit this model: {wrong[0]} and {len(wrong) - 1} more tensors differ")
        for name, value in values.items():
            self.masters[name].copy_(value)
        self.slot.holder = None

    def state(self, *, with_optimizer: bool, copies: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, facts) that a load restores bit by bit. Refused with pending gradients: they would be lost. Where
        nothing `copies`, the tensors are those that learn: for use at once."""
        if self.pending:
            raise RunError(f"tenant {self.name} has pending gradients: call optim_step before its state is saved")
        tensors = {f"masters.{n}": t for n, t in self.masters.items()}
        if with_optimizer:
            for name, master in self.masters.items():
                for key, value in self.optimizer.state.get(master, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        for index, regulariser in enumerate(self.spec.regularisers):
            tensors |= {f"regulariser.{index}.{n}": t for n, t in regulariser.state().items()}
        tensors = {name: t.detach().clone() if copies else t.detach() for name, t in tensors.items()}
        facts = {"adapt": self.slot.key, "seed": self.spec.seed, "num_updates": self.num_updates}
        return tensors, {**facts, "trainable": sorted(self.trainable), "with_optimizer": with_optimizer}

    def load(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        if self.pending:
            raise RunError(f"tenant {self.name} has pending gradients: call optim_step before another state is loaded")
        if facts["adapt"] != self.slot.key:
            raise RunError(
                f"the state is of a tenant of kind {facts['adapt']}, this one is {self.slot.key}: same recipe?"
            )
        for name, master in self.masters.items():
            master.copy_(tensors[f"masters.{name}"])
        self.optimizer.state.clear()
        if facts["with_optimizer"]:
            for name, master in self.masters.items():
                mine = {
                    key: tensors[f"optimizer.{key}.{name}"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer.{key}.{name}" in tensors
                }
                if mine:
                    self.optimizer.state[master] = {k: v.to(master.device).clone() for k, v in mine.items()}
        for index, regulariser in enumerate(self.spec.regularisers):
            own = f"regulariser.{index}."
            regulariser.load({n.removeprefix(own): t for n, t in tensors.items() if n.startswith(own)})
        self.trainable = frozenset(facts["trainable"])
        self.num_updates = facts["num_updates"]


@contextmanager
def drawing(tenant: Tenant, key: object, batch: Forest) -> Iterator[None]:
    """Noise drawn inside is a function of seed, update and token; a library's own, of seed, update and `key`, the
    micro-batch's place in the update. Nothing that ran before moves it."""
    words = (tenant.spec.seed, "noise", tenant.num_updates)
    tenant.slot.draw.set(batch, key_of(*words))
    with torch.random.fork_rng():
        torch.manual_seed(keyed_generator(*words, key).initial_seed())
        try:
            yield
        finally:
            tenant.slot.draw.set(None, 0)
