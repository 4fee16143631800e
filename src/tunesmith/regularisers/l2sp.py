"""L2-SP (Li et al. 2018, arXiv:1802.01483): alpha / 2 |w - w0|^2, a pull towards where training began.

Under LoRA w - w0 is what the adapter adds, scale * B A, never the factors by themselves: their product is what the
model computes with. New weights (heads) are pulled towards 0, as the paper's are.
"""

from __future__ import annotations

from torch import Tensor

from tunesmith.roles import Regulariser, Site


def low_rank_gradient(a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Derivatives of 1/2 |scale B A|^2 with respect to A [r, in] and B [out, r], without the product [out, in]."""
    return scale**2 * ((b.T @ b) @ a), scale**2 * (b @ (a @ a.T))


class L2SP(Regulariser):
    """`alpha`: strength; 0 leaves every gradient as it is. Added once an update, before the gradient is clipped."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def before_clip(self, site: Site) -> None:
        if self.alpha == 0:
            return
        pulled = {}
        for pair in site.pairs:
            pulled[pair.a], pulled[pair.b] = low_rank_gradient(site.masters[pair.a], site.masters[pair.b], pair.scale)
        for name in site.trainable:
            master = site.masters[name]
            pull = pulled[name] if name in pulled else master - site.neutral[name].to(master)
            master.grad = self.alpha * pull if master.grad is None else master.grad.add_(pull, alpha=self.alpha)
