"""Learning from pairs that are sampled while it learns: the best and the worst reply to a prompt, by their rewards.

Online DPO (Guo et al. 2024, arXiv:2402.04792), with any loss of `preference.py`: the same loss of a pair as from a
file, against the model as it was before update 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.objectives.preference import Preference, Preferring, replies_in
from tunesmith.types import Forest, Pairs, Rollouts


class Online(Preferring):
    """A group has two learned replies, the best first; what the reference says of their tokens hangs on the forest."""

    def __init__(self, asked: Preference) -> None:
        super().__init__(asked, None)

    def referred(self, index: Tensor, batch: Forest, logp_S: Tensor) -> Pairs:
        given, replies = batch.extra, replies_in(batch).cpu()
        if not self.kind.has_reference:
            return super().referred(index, batch, logp_S)
        assert isinstance(given, Rollouts), "replies come with what was known when they were sampled"
        assert given.ref_logp is not None, "a pair is compared with what the reference says"
        sizes = batch.num_learned_S.cpu()[replies]
        found = torch.zeros(batch.num_segments, dtype=torch.float64)
        found.index_add_(0, replies.repeat_interleave(sizes), given.ref_logp.cpu().double())
        return Pairs(index, found.to(logp_S))
