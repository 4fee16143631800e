"""Averages of a run's weights, and the way back to the base.

The mean of the weights of many updates is steadier than the last of them: EMA (Polyak and Juditsky 1992, as used
since), or the plain mean over the last updates (Izmailov et al. 2018). WiSE-FT (Wortsman et al. 2021,
arXiv:2109.01903) takes a point on the line from the base to the tuned weights, which often keeps most of the gain and
loses less elsewhere. Of LoRA, averages are of the factors; the line to the base is that of the change scale * B A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tunesmith.roles import LowRank, Regulariser, Site


@dataclass(frozen=True, slots=True)
class Average:
    """What the weights of a run are, once its updates are made. 0: the last ones."""

    ema: float = 0.0  # memory of a running mean of the weights, 0.9 to 0.999, which are then the run's; 0: the last
    last: int = 0  # the run's weights are the mean over this many last updates; 0: the last ones
    # WiSE-FT: share of the base in the run's weights, 0 to 1; auto: the one that does best on dev. 0: none
    base_share: float | Literal["auto"] = 0.0


class Mean(Regulariser):
    """A mean of the masters, of which the updates know nothing. Kept with the state of the tenant."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def weigh(self, site: Site, newest: float) -> None:
        """mean = (1 - newest) mean + newest w; `newest` 1 is w, to the last bit."""
        for name, master in site.masters.items():
            if newest == 1:
                self.values[name] = master.detach().clone()
            else:
                self.values[name].lerp_(master.detach(), newest)

    def state(self) -> dict[str, Tensor]:
        return self.values

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.values = {n: t.clone() for n, t in tensors.items()}


class Ema(Mean):
    """`decay`: share of the mean that stays at an update. The first updates are their plain mean, so that the weights
    at the start, which nobody trained, have no share in it."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_update(self, site: Site) -> None:
        self.weigh(site, max(1 - self.decay, 1 / site.update))


class Tail(Mean):
    """The plain mean over the updates after `begin`."""

    def __init__(self, begin: int) -> None:
        super().__init__()
        self.begin = begin

    def on_update(self, site: Site) -> None:
        if site.update > self.begin:
            self.weigh(site, 1 / (site.update - self.begin))


def towards_base(
    values: Mapping[str, Tensor], neutral: Mapping[str, Tensor], pairs: tuple[LowRank, ...], base_share: float
) -> dict[str, Tensor]:
    """Weights whose change from the base is (1 - base_share) times that of `values`. At 0 they are `values`, at 1 the
    base, both to the last bit."""
    if base_share == 0:
        return dict(values)
    left_out = {pair.a for pair in pairs}  # B alone carries the factor: (1 - s) (B A) = ((1 - s) B) A
    return {
        n: v if n in left_out else torch.lerp(v, neutral[n].to(v), base_share) if base_share < 1 else neutral[n].to(v)
        for n, v in values.items()
    }
