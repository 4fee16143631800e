"""Which guards against over-fitting and forgetting a recipe asks for, and how strongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from tunesmith.regularisers.ewc import EWC
from tunesmith.regularisers.kl import KLToBase
from tunesmith.regularisers.l2sp import L2SP
from tunesmith.regularisers.mixout import Mixout
from tunesmith.regularisers.neftune import NEFTune
from tunesmith.regularisers.rdrop import RDrop
from tunesmith.roles import Regulariser


@dataclass(frozen=True, slots=True)
class Regularise:
    """Each at 0 does nothing, to the last bit."""

    mixout: float = 0.0  # share of the weights' entries that are the base's in each update; 0.1 to 0.9 for few rows
    l2sp: float = 0.0  # pull of the weights to where they began; 0.001 to 0.1, most with adapt.method full
    # EWC: the same pull, of each weight as strongly as it matters for general text (data.replay.files, or the
    # guard's); 10 to 1000
    ewc: float = 0.0
    kl: float = 0.0  # pull of the answers to those of the base, per token; 0.01 to 0.5; a second pass for each update
    neftune: float = 0.0  # noise on the embeddings while training; 5 to 15
    rdrop: float = 0.0  # two passes with other dropout shall agree, 1 to 5; needs dropout, and twice the time


def regularisers(asked: Regularise, fisher: Mapping[str, Tensor]) -> tuple[Regulariser, ...]:
    """Those above 0. Mixout stands first: what others add to a gradient is not theirs to be masked. `fisher`: of the
    base, for EWC."""
    made: dict[Callable[[float], Regulariser], float] = {
        Mixout: asked.mixout,
        L2SP: asked.l2sp,
        lambda strength: EWC(strength, fisher): asked.ewc,
        KLToBase: asked.kl,
        NEFTune: asked.neftune,
        RDrop: asked.rdrop,
    }
    return tuple(kind(strength) for kind, strength in made.items() if strength)
