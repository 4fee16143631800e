"""Forward and backward passes of a tenant's micro-batches, over the base's own model, whole in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tunesmith.engine.dealing import Share
from tunesmith.engine.optim import global_norm
from tunesmith.engine.ranks import Ranks
from tunesmith.engine.sharing import loss_of, others_of, shares_of
from tunesmith.engine.tenant import Snapshot, Tenant, drawing
from tunesmith.models.forward import layers_again
from tunesmith.models.load import Base
from tunesmith.models.output import ForwardOutput, output
from tunesmith.models.prompts import begun
from tunesmith.models.score_head import scalars
from tunesmith.roles import Objective, Site
from tunesmith.types import Forest, Ratio, Shared

Holder = Tenant | Snapshot | None


def said(base: Base, holder: Holder, batch: Forest) -> ForwardOutput:
    """Forward pass of whoever is in the slot."""
    before, heads = (holder.slot.before, holder.slot.heads) if holder is not None else ((), None)
    batch = begun(batch, before)
    out = output(base.model, base.head, batch, base.layout)
    out.scalars |= scalars(base.head, heads, out.hidden, out.at, batch)
    return out


class Learner:
    """`put`: makes the weights of whoever is named the live ones."""

    is_sharded = False

    def __init__(self, base: Base, put: Callable[[Holder], Holder], *, checkpointing: bool) -> None:
        self.base, self.put, self.checkpointing = base, put, checkpointing

    def teach(
        self, tenant: Tenant, share: Share, keys: Sequence[object], objective: Objective, scale: float, ranks: Ranks
    ) -> dict[str, Ratio]:
        """Of micro-batches, one after the other. Without a gradient left where one fails."""
        batches = [b.to(self.base.model.device) for b in share.batches]
        others = [self.others(tenant, b, objective) for b in batches]
        self.put(tenant)
        stats: dict[str, Ratio] = {}
        with self.training(tenant):
            noisy = lambda k, batch: self.noisy(tenant, keys[k], batch)
            rows = shares_of(noisy, batches, objective, others, ranks, lambda: self.idle(tenant, share, learns=False))
            for index, batch in enumerate(batches):
                given = (rows[index] if rows else None, others[index])
                with drawing(tenant, keys[index], batch):
                    found = self.learn(tenant, batch, objective, scale, given)
                for key, ratio in found.items():
                    stats[key] = stats[key] + ratio if key in stats else ratio
            self.idle(tenant, share, learns=True)
        return stats

    def learn(
        self, tenant: Tenant, batch: Forest, objective: Objective, scale: float,
        given: tuple[tuple[Shared, Tensor] | None, dict[str, Any]],
    ) -> dict[str, Ratio]:  # fmt: skip
        """Forward and backward of one micro-batch. `given`: what all shared, with my cotangent; the frozen outputs."""
        share, others = given
        stats: dict[str, Ratio] = {}

        def total() -> Tensor:
            out = said(self.base, tenant, batch)
            loss = loss_of(objective, out, batch, share[0] if share else None, others)
            stats.update({"loss": Ratio(loss.total.detach().double(), objective.count(batch)), **loss.stats})
            terms = [r.term(out, batch, others) for r in tenant.spec.regularisers]
            found = loss.total * scale
            for term in terms:
                if term is not None:
                    found = found + term.total * scale
                    stats.update(term.stats)
            if share is not None and "held" not in objective.needs:
                found = found + (objective.share(out, batch) * share[1]).sum() * scale
            return self.touched(found, out)

        found = self.run(total)
        if found.requires_grad:  # an empty micro-batch has nothing to send back
            found.backward()
        tenant.take_gradients(self.mine)
        tenant.pending_ids.extend(batch.example_ids)
        return stats

    def noisy(self, tenant: Tenant, key: object, batch: Forest) -> ForwardOutput:
        with drawing(tenant, key, batch):
            return said(self.base, tenant, batch)

    @torch.no_grad()
    def others(self, tenant: Tenant, batch: Forest, objective: Objective) -> dict[str, Any]:
        """Outputs, without gradients, of the frozen models that the objective asks for. Their heads are their own."""
        return others_of(tenant, batch, objective, lambda frozen: said(self.base, self.put(frozen), batch))

    def site(self, tenant: Tenant) -> Site:
        slot, num = tenant.slot, tenant.num_updates
        fixed = (self.base.model, slot.live, tenant.masters, slot.neutral, tenant.trainable, slot.pairs, slot.draw)
        return Site(*fixed, seed=tenant.spec.seed, update=num)

    @contextmanager
    def training(self, tenant: Tenant) -> Iterator[None]:
        """Train mode, the tenant's tensors require gradients, its regularisers are attached; undone at the end."""
        site = self.site(tenant)
        undo = [r.attach(site) for r in tenant.spec.regularisers]
        self.base.model.train()
        self.switch(tenant, on=True)
        try:
            with layers_again(self.base.model, self.base.layout) if self.checkpointing else nullcontext():
                yield
        except BaseException:
            tenant.forget_gradients()
            raise
        finally:
            self.switch(tenant, on=False)
            self.base.model.eval()
            for call in reversed(undo):
                call()

    # -- where weights that are spread over the ranks differ (sharded.py) ------------------------------------------

    def switch(self, tenant: Tenant, *, on: bool) -> None:
        for name in tenant.trainable:
            tenant.slot.live[name].requires_grad_(on)

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        """A forward pass, from a forest to a loss."""
        return work()

    def touched(self, total: Tensor, out: ForwardOutput) -> Tensor:
        """The loss, from which every tensor that trains gets a gradient where ranks have to agree on that."""
        return total

    def idle(self, tenant: Tenant, share: Share, *, learns: bool) -> None:
        """Passes that are made because other ranks make them."""
        assert not share.idle, "only spread weights need all ranks in each pass"

    def mine(self, tensor: Tensor) -> Tensor:
        """Of a gradient, this rank's part."""
        return tensor

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of tensors by their keys in a tenant's state, all of each, on the leader."""
        return dict(tensors)

    def part(self, key: str, tensor: Tensor) -> Tensor:
        """The other way: of a whole tensor, what this rank holds."""
        return tensor

    def summed(self, gradients: dict[str, Tensor], like: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
        """The gradients of all ranks."""
        return ranks.summed(gradients, like)

    def norm(self, tensors: dict[str, Tensor]) -> Tensor:
        """[] L2 norm over all tensors, and all parts of them."""
        return global_norm(tensors)
