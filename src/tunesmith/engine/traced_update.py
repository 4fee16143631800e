"""Memory that an update's forward and backward take at most, with its objective and regularisers, on a twin of the
model that holds no numbers. What `Learner.teach` does, of the largest micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.engine.tenant import Spec
from tunesmith.models.adapters import Slot, activate_adapter, open_slot
from tunesmith.models.forward import ForwardOutput, layers_again, scored
from tunesmith.models.heads import KeptHead
from tunesmith.models.hidden import hidden_states
from tunesmith.models.load import Base
from tunesmith.models.score_head import scalars
from tunesmith.models.traced import META, Living, Traced, Untraceable, traced, twin_of
from tunesmith.objectives.sft import learned_weights
from tunesmith.roles import Objective, Site
from tunesmith.types import Forest

FROZEN = {"reference", "teacher", "shared"}  # what is made of all micro-batches before the first is learned from


def trace_update(
    base: Base, spec: Spec, batches: Sequence[Forest], objective: Objective, *, checkpointing: bool
) -> Traced:
    """Bytes beside the weights of the base and the tenant's state, but with the gradients of what trains. What is made
    of all micro-batches before the first is learned from (of a reference, say) is in them."""
    if spec.adapt.is_pefts:
        raise Untraceable("peft's own layers are not traced")
    twin = twin_of(base.model)
    slot = open_slot(twin, spec.adapt, spec.heads)
    if spec.adapt.method == "lora":
        activate_adapter(twin, slot.key)
    head = replace(base.head, model=twin)
    site = site_of(twin, slot, spec)
    teacher = twin_of(spec.teacher.model) if isinstance(spec.teacher, Base) else None
    at, largest = max(enumerate(batches), key=lambda found: found[1].num_tokens)
    needs = objective.needs.union(*(r.needs for r in spec.regularisers))

    def ask(batch: Forest) -> ForwardOutput:
        slot.draw.set(there(batch), 0)
        asked = scored(batch)
        target, weight = asked.target.to(META), asked.weight.to(META)
        hidden = hidden_states(twin, there(batch), "forest")
        more = scalars(head, slot.heads, hidden, asked.at, batch)
        return ForwardOutput(hidden, asked.at, target, weight, asked.segment, head, batch.start, batch.stop, more)

    def asked_frozen(role: str, batch: Forest) -> ForwardOutput:
        """Of the base, or of the teacher, which is loaded already."""
        with torch.no_grad():
            out = ask(batch)
            if role == "teacher" and teacher is not None and isinstance(spec.teacher, Base):
                out.head = replace(spec.teacher.head, model=teacher)
                out.hidden = hidden_states(teacher, there(batch), "forest")
                return out
        moving = any(p is head.weight for p in slot.live.values())
        out.head = KeptHead(head.projection) if moving else head
        return out

    def learn(living: Living) -> int:
        living.known(site.masters.values())
        living.known(() if teacher is None else (*teacher.parameters(), *teacher.buffers()))
        frozen: dict[str, list[ForwardOutput]] = {
            role: [asked_frozen(role, batch) for batch in batches] for role in sorted(needs & FROZEN)
        }
        others: dict[str, Any] = {role: outs[at] for role, outs in frozen.items()}
        undo = [regulariser.attach(site) for regulariser in spec.regularisers]
        kept, total = forward(living, others)
        total.backward()
        for call in undo:
            call()
        return kept

    def forward(living: Living, others: dict[str, Any]) -> tuple[int, Tensor]:
        out = ask(largest)  # gone before the backward
        return living.now, loss(objective, spec, out, largest, others)

    twin.train()
    for parameter in slot.live.values():
        parameter.requires_grad_(True)
    with layers_again(twin, "forest") if checkpointing else nullcontext():
        return traced(twin, learn)


def there(batch: Forest) -> Forest:
    return replace(batch, tokens=batch.tokens.to(META), positions=batch.positions.to(META))


def loss(objective: Objective, spec: Spec, out: ForwardOutput, batch: Forest, others: dict[str, Any]) -> Tensor:
    """With the terms of regularisers. What is shared between micro-batches is small, and its loss is left out."""
    weights = learned_weights(batch) if "shared" in objective.needs else objective.linear_weights(batch)
    total = objective(out, batch, None, others).total if weights is None else out.linear_loss(weights.to(META))[0]
    terms = [r.term(out, batch, others) for r in spec.regularisers]
    return sum((term.total for term in terms if term is not None), start=total)


def site_of(twin: Any, slot: Slot, spec: Spec) -> Site:
    masters = {n: torch.empty_like(p, dtype=torch.float32) for n, p in slot.neutral.items()}
    fixed = (twin, slot.live, masters, slot.neutral, frozenset(masters), slot.pairs, slot.draw)
    return Site(*fixed, seed=spec.seed, update=1)


def trace_clip(base: Base, spec: Spec) -> int:
    """Bytes that regularisers take at most when the whole gradient is there."""
    twin = twin_of(base.model)
    site = site_of(twin, open_slot(twin, spec.adapt, spec.heads), spec)
    gradients = [torch.empty_like(master) for master in site.masters.values()]
    for master, gradient in zip(site.masters.values(), gradients):
        master.grad = gradient

    def clip(living: Living) -> int:
        living.known(site.masters.values())
        living.known(gradients)
        for regulariser in spec.regularisers:
            regulariser.before_clip(site)
        return 0

    with torch.no_grad():
        return traced(twin, clip).peak
