"""Mixout (Lee et al. 2019, arXiv:1909.11299): parts of the weights are the pre-trained ones, other parts each update.

w~ = [(I - M) u + M w - p u] / (1 - p) = u + M (w - u) / (1 - p), M ~ Bernoulli(1 - p), u the base's weights. The
gradient is autograd's, M / (1 - p); the authors' code leaves the division out of it, which is a (1 - p) times smaller
rate. Under LoRA w - u is what the adapter adds, scale * B A: its entries are dropped, and the base is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tunesmith.models.adapters import keyed_generator
from tunesmith.roles import LowRank, Regulariser, Site


def mixout(w: Tensor, u: Tensor, kept: Tensor, p: float) -> Tensor:
    """The mixed weights; `kept` is M as booleans."""
    return u + torch.where(kept, w - u, 0) / (1 - p)


class Mixout(Regulariser):
    """Of every trained matrix. `p`: share of the entries that are the base's, from 0 up to (not including) 1."""

    def __init__(self, p: float) -> None:
        self.p = p

    def kept(self, site: Site, name: str, shape: tuple[int, ...], update: int) -> Tensor:
        """M of one matrix, the same for all micro-batches of the update."""
        generator = keyed_generator(site.seed, "mixout", update, name)
        return (torch.rand(shape, generator=generator) >= self.p).to(next(site.model.parameters()).device)

    def attach(self, site: Site) -> Callable[[], None]:
        if self.p == 0:
            return lambda: None
        undo = [self._adapter(site, pair) for pair in site.pairs]
        undo += [self._weight(site, name) for name in mixed_weights(site)]

        def all_undone() -> None:
            for call in undo:
                call()

        return all_undone

    def _weight(self, site: Site, name: str) -> Callable[[], None]:
        """The live weight is the mixed one while it is attached; `before_clip` mends the gradient."""
        live, master, base = site.live[name], site.masters[name], site.neutral[name]
        kept = self.kept(site, name, tuple(master.shape), site.update)
        with torch.no_grad():
            live.copy_(mixout(master, base.to(master), kept, self.p))

        def undo() -> None:
            with torch.no_grad():
                live.copy_(master)

        return undo

    def _adapter(self, site: Site, pair: LowRank) -> Callable[[], None]:
        layer = site.model.get_submodule(pair.module)
        assert isinstance(layer, LoraLayer)
        assert isinstance(layer, nn.Module)
        [key] = layer.active_adapters
        base, drop, a, b = layer.get_base_layer(), layer.lora_dropout[key], site.live[pair.a], site.live[pair.b]
        dropped = ~self.kept(site, pair.module, (b.shape[0], a.shape[1]), site.update)

        def forward(x: Tensor) -> Tensor:
            change = ((b * (pair.scale / (1 - self.p))) @ a).masked_fill(dropped, 0)
            result = base(x)
            return result + nn.functional.linear(drop(x).to(change.dtype), change).to(result.dtype)

        vars(layer)["forward"] = forward

        def undo() -> None:
            del vars(layer)["forward"]

        return undo

    def before_clip(self, site: Site) -> None:
        """The derivative of the mixed weights with respect to the weights."""
        for name in mixed_weights(site) if self.p else ():
            gradient = site.masters[name].grad
            if gradient is not None:
                kept = self.kept(site, name, tuple(gradient.shape), site.update)
                gradient.masked_fill_(~kept, 0).mul_(1 / (1 - self.p))


def mixed_weights(site: Site) -> list[str]:
    """Trained matrices of the model itself. New ones (heads) have no pre-trained values to be mixed with."""
    if site.pairs:
        return []
    return [n for n in sorted(site.trainable) if is_matrix(site.masters, n)]


def is_matrix(masters: Mapping[str, Tensor], name: str) -> bool:
    return masters[name].dim() >= 2 and not name.startswith("heads.")
