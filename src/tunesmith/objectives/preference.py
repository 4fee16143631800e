"""Learning from pairs: a chosen and a rejected reply to the same prompt, whose probabilities are moved apart.

In all of them log pi is the sum over a reply's tokens, its end of turn included, in nats. A margin is what chosen has
over rejected. The functions take tensors [P] of pairs; the objective picks the segments and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Pairs, Ratio, Shared

Reference = Mapping[str, tuple[float, ...]]  # example -> nats of its replies before update 0, the best first


@dataclass(frozen=True, slots=True)
class Preference:
    # how pairs are learned: dpo is the usual one; simpo, orpo and cpo need no reference
    loss: Literal["dpo", "cdpo", "ipo", "simpo", "orpo", "cpo"] = "dpo"
    # strength, 1/nats: lower lets the model move further from where it began; null: 0.1, with simpo 2
    beta: float | None = None
    label_smoothing: float | None = None  # cdpo: share of the pairs that may be the wrong way round; null: 0.1
    gamma: float | None = None  # simpo: the margin that is wanted, after beta; null: 1
    per_token: bool | None = None  # dpo, cdpo, ipo: log-probabilities divided by a reply's tokens; null: false
    nll: float | None = None  # weight of the chosen reply's own loss per token beside it; null: 0, with orpo and cpo 1


@dataclass(frozen=True, slots=True)
class Scored:
    """What a loss is a function of, [P] each: nats of both replies, now and under the reference, and their tokens."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    num_chosen: Tensor
    num_rejected: Tensor

    @property
    def mean_chosen(self) -> Tensor:
        return self.chosen / self.num_chosen

    @property
    def mean_rejected(self) -> Tensor:
        return self.rejected / self.num_rejected

    def margin(self, *, per_token: bool = False) -> Tensor:
        """log(pi / pi_ref) of the chosen reply over that of the rejected one."""
        chosen, rejected = self.chosen - self.ref_chosen, self.rejected - self.ref_rejected
        return chosen / self.num_chosen - rejected / self.num_rejected if per_token else chosen - rejected


def dpo(margin_P: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta margin). Rafailov et al. 2023, arXiv:2305.18290, eq. 7."""
    return -F.logsigmoid(beta * margin_P)


def cdpo(margin_P: Tensor, beta: float, smoothing: float) -> Tensor:
    """DPO where this share of the labels may be wrong. Mitchell 2023, "A note on DPO with noisy preferences", eq. 3."""
    return (1 - smoothing) * dpo(margin_P, beta) + smoothing * dpo(-margin_P, beta)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """(margin - 1 / (2 beta))^2. Azar et al. 2023, arXiv:2310.12036, eq. 17, of sums as it stands there; TRL divides by
    the tokens (per_token)."""
    return (margin_P - 1 / (2 * beta)) ** 2


def simpo(mean_margin_P: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta margin - gamma), of nats per token without a reference. Meng et al. 2024, arXiv:2405.14734,
    eq. 6."""
    return -F.logsigmoid(beta * mean_margin_P - gamma)


def log_odds(mean_logp_P: Tensor) -> Tensor:
    """log(p / (1 - p)) of a log-probability, exact where p is near 1; finite where rounding makes it 1."""
    return mean_logp_P - torch.log(-torch.expm1(mean_logp_P.clamp(max=-1e-7)))


def orpo(mean_chosen_P: Tensor, mean_rejected_P: Tensor) -> Tensor:
    """-log sigmoid of the log odds ratio, of nats per token. Hong et al. 2024, arXiv:2403.07691, eq. 7."""
    return -F.logsigmoid(log_odds(mean_chosen_P) - log_odds(mean_rejected_P))


def cpo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """DPO under a reference that finds all replies alike. Xu et al. 2024, arXiv:2401.08417, eq. 3."""
    return dpo(chosen_P - rejected_P, beta)


@dataclass(frozen=True, slots=True)
class Kind:
    """`reads`: the keys that it reads, with what stands for null."""

    each: Callable[[Scored, Mapping[str, float]], Tensor]
    reads: Mapping[str, float]
    has_reference: bool = True


OWN = {"beta": 0.1, "per_token": False, "nll": 0.0}
LOSSES = {
    "dpo": Kind(lambda s, k: dpo(s.margin(per_token=bool(k["per_token"])), k["beta"]), OWN),
    "cdpo": Kind(
        lambda s, k: cdpo(s.margin(per_token=bool(k["per_token"])), k["beta"], k["label_smoothing"]),
        OWN | {"label_smoothing": 0.1},
    ),
    "ipo": Kind(lambda s, k: ipo(s.margin(per_token=bool(k["per_token"])), k["beta"]), OWN),
    "simpo": Kind(
        lambda s, k: simpo(s.mean_chosen - s.mean_rejected, k["beta"], k["gamma"]),
        {"beta": 2.0, "gamma": 1.0, "nll": 0.0}, has_reference=False,
    ),
    "orpo": Kind(
        lambda s, k: k["beta"] * orpo(s.mean_chosen, s.mean_rejected), {"beta": 0.1, "nll": 1.0}, has_reference=False
    ),
    "cpo": Kind(
        lambda s, k: cpo(s.chosen, s.rejected, k["beta"]), {"beta": 0.1, "nll": 1.0}, has_reference=False
    ),
}  # fmt: skip


def said(asked: Preference) -> dict[str, float]:
    """The keys beside the loss that are not left open."""
    keys = {
        "beta": asked.beta, "label_smoothing": asked.label_smoothing, "gamma": asked.gamma,
        "per_token": asked.per_token, "nll": asked.nll,
    }  # fmt: skip
    return {name: value for name, value in keys.items() if value is not None}


def resolved(asked: Preference) -> dict[str, float]:
    """Each key that the loss reads, nothing left open."""
    return {name: said(asked).get(name, usual) for name, usual in LOSSES[asked.loss].reads.items()}


def unread(asked: Preference) -> list[str]:
    """Keys that are said and that this loss does not read."""
    return [name for name in said(asked) if name not in LOSSES[asked.loss].reads]


def replies_in(batch: Forest) -> Tensor:
    """[R] segments of the replies that are learned; those of an example are its own, the best first."""
    replies = torch.nonzero(batch.weights[batch.start] != 0)[:, 0]
    counted = torch.bincount(batch.owner[replies], minlength=len(batch.example_ids))
    assert bool((counted >= 2).all()), "an example of a pair forest has two learned replies, or more"
    return replies


def pairs_in(batch: Forest) -> Tensor:
    """[P, 2] segments of chosen and rejected replies: of an example each reply with each one behind it."""
    replies = replies_in(batch)
    owner = batch.owner[replies]
    return replies[torch.nonzero((owner[:, None] == owner[None]).triu(1))]


def pair_weights(batch: Forest, index: Tensor) -> Tensor:
    """[P] of each pair: its row's, which the pairs of a list have together."""
    owner = batch.owner[index[:, 0]]
    return batch.weights[batch.start[index[:, 0]]] / torch.bincount(owner)[owner]


def nats_of(output: Output, batch: Forest) -> Tensor:
    """[S] summed log-probabilities of the learned tokens of each segment."""
    logp = output.logp()
    logp = logp if logp.dtype == torch.float64 else logp.float()
    return torch.zeros(batch.num_segments).to(logp).index_add(0, output.segment.to(logp.device), logp)


def reference_of(reference: Reference | None, batch: Forest, logp_S: Tensor) -> Tensor:
    """[S] nats of the replies before update 0; None: they are what they are now."""
    if reference is None:
        return logp_S.detach()
    known = [nats for name in batch.example_ids for nats in reference[name]]
    replies = replies_in(batch).cpu()
    by_owner = replies[torch.argsort(batch.owner.cpu()[replies], stable=True)]
    found = torch.zeros(batch.num_segments, dtype=torch.float64)
    found[by_owner] = torch.tensor(known, dtype=torch.float64)
    return found.to(logp_S)


class OfPairs:
    """A pair, or a list of replies as the mean of its pairs, is the unit, and counts for its row's weight."""

    needs: frozenset[str] = frozenset()

    def count(self, batch: Forest) -> Tensor:
        return pair_weights(batch, pairs_in(batch)).sum(dtype=torch.float64)

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def share(self, output: Output, batch: Forest) -> Tensor:
        raise AssertionError("pairs need nothing shared")


class Preferring(OfPairs):
    """`reference`: of every example that will come; None: the model as it is now, which is right before the first
    update alone (to try one out)."""

    def __init__(self, asked: Preference, reference: Reference | None) -> None:
        self.loss, self.keys, self.reference = asked.loss, resolved(asked), reference

    @property
    def kind(self) -> Kind:
        return LOSSES[self.loss]  # not kept: it could not be sent to other processes

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        return self.of(nats_of(output, batch), batch)

    def of(self, logp_S: Tensor, batch: Forest) -> Loss:
        """The loss of summed log-probabilities [S] of a forest's segments, whoever scored them."""
        pairs = self.referred(pairs_in(batch), batch, logp_S)
        ref_S, index = pairs.ref_logp, pairs.index.to(logp_S.device)
        assert ref_S is not None
        size_S = batch.num_learned_S.to(logp_S)
        both = [t[index[:, side]] for t in (logp_S, ref_S, size_S) for side in (0, 1)]
        scored = Scored(both[0], both[1], both[2], both[3], both[4], both[5])
        weight = pair_weights(batch, pairs.index).to(logp_S)
        each = self.kind.each(scored, self.keys)
        if self.keys["nll"]:
            each = each - self.keys["nll"] * scored.mean_chosen
        return Loss((each * weight).sum(), self.told(scored, weight))

    def referred(self, index: Tensor, batch: Forest, logp_S: Tensor) -> Pairs:
        """With the log-probabilities under the reference; 0 where the loss has none."""
        if not self.kind.has_reference:
            return Pairs(index, torch.zeros_like(logp_S))
        return Pairs(index, reference_of(self.reference, batch, logp_S))

    def told(self, scored: Scored, weight: Tensor) -> dict[str, Ratio]:
        """Means over pairs. With a reference: how much likelier each reply became, and in how many pairs the chosen one
        gained on the other, a tie half (what TRL calls rewards/accuracies)."""
        total = weight.sum().detach()

        def mean(each: Tensor) -> Ratio:
            return Ratio((each.detach() * weight).sum(), total)

        margin = scored.margin()
        found = {"margin_nats": mean(margin), "preferred_frac": mean((margin.sign() + 1) / 2)}
        if self.kind.has_reference:
            found["chosen_change_nats"] = mean(scored.chosen - scored.ref_chosen)
            found["rejected_change_nats"] = mean(scored.rejected - scored.ref_rejected)
        return found
