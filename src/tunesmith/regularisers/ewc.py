"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3): lambda / 2 sum F (w - w0)^2.

F is the diagonal of the base's Fisher information on general text, per token (`engine/fisher.py`), so the penalty is
about lambda times the KL that a change makes per token of such text. Under LoRA w - w0 is what the adapter adds,
scale * B A, as for L2-SP. New weights (heads) have no Fisher and are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tunesmith.roles import Regulariser, Site


def low_rank_gradient(a: Tensor, b: Tensor, scale: float, fisher: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of 1/2 sum F (scale B A)^2 with respect to A [r, in] and B [out, r]; `fisher` [out, in]."""
    weighed = scale**2 * fisher * (b @ a)
    return b.T @ weighed, weighed @ a.T


class EWC(Regulariser):
    """`strength`: lambda; 0 leaves every gradient as it is. `fisher`: of each matrix that changes, by its name in the
    base, as [out, in] where it carries an adapter. Added once an update, before the gradient is clipped."""

    def __init__(self, strength: float, fisher: Mapping[str, Tensor]) -> None:
        self.strength, self.fisher = strength, fisher

    def before_clip(self, site: Site) -> None:
        if self.strength == 0:
            return
        pulled: dict[str, Tensor] = {}
        for pair in site.pairs:
            a, b = site.masters[pair.a], site.masters[pair.b]
            fisher = self.fisher[f"{pair.module}.weight"].to(a)
            pulled[pair.a], pulled[pair.b] = low_rank_gradient(a, b, pair.scale, fisher)
        for name in site.trainable:
            master = site.masters[name]
            if name in self.fisher:
                pulled[name] = self.fisher[name].to(master) * (master - site.neutral[name].to(master))
            if name in pulled:
                pull = self.strength * pulled[name]
                master.grad = pull if master.grad is None else master.grad.add_(pull)
