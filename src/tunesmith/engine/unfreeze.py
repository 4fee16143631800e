"""Gradual unfreezing (Howard and Ruder 2018, section 3.3): epoch k trains the top k groups of layers.

What is frozen has no gradient and no optimizer state, and backward passes end above it.
"""

from __future__ import annotations

from tunesmith.engine.session import Session
from tunesmith.models.depth import depths, top


class Unfreeze:
    """A listener; called once before the first update too. What trains is a function of the update's number alone."""

    def __init__(self, session: Session, tenant: str, num_groups: int, updates_per_epoch: int) -> None:
        self.session, self.tenant = session, tenant
        self.num_groups, self.updates_per_epoch = num_groups, updates_per_epoch
        self.depth = depths(session.base.model, session.tenants[tenant].masters)

    def __call__(self, update: int, facts: dict[str, float]) -> None:
        """After `update` updates: choose what the next one trains."""
        wanted = top(self.depth, self.num_groups, update // self.updates_per_epoch + 1)
        if set(wanted) != self.session.tenants[self.tenant].trainable:
            self.session.set_trainable(self.tenant, wanted)
