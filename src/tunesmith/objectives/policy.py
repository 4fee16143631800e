"""Learning from sampled completions and what they were worth: small surrogates whose gradient is that of the reward.

`old` is always the sampler's own log-probability of a token. The ratio to what the model says now is 1 in the first
update behind a sampling, but for how sampler and trainer round. Functions take tensors; the objective weighs and
counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tunesmith.objectives.advantage import against_others, best_and_worst, centred, standardised
from tunesmith.objectives.critic import Critic, value_loss
from tunesmith.roles import Output
from tunesmith.types import Forest, Loss, Ratio, Rollouts, Shared


@dataclass(frozen=True, slots=True)
class Sampling:
    """A server of vLLM that samples in place of this machine; needs both, or neither."""

    endpoint: str | None = None  # its address, up to and with /v1; null: the engine's own sampler, here
    model: str = ""  # the base's name there
    api_key_env: str | None = None  # the environment variable that its key stands in
    ahead: bool = False  # the next replies are sampled while these are learned from, by weights that are older then


@dataclass(frozen=True, slots=True)
class Policy:
    # how what did better becomes likelier: grpo is the usual one; docs/methods/grpo.md has them all, ppo its own page
    method: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo", "ppo", "online_dpo"] = "grpo"
    group_size: int = 8  # replies that are sampled for a prompt and compared with each other
    prompts: int = 8  # prompts that are sampled for at a time
    temperature: float = 1.0  # of sampling and of what is learned; above 0
    max_new_tokens: int = 128  # of a reply; one that is cut off there is graded as it is
    clip_low: float | None = None  # a ratio below 1 - this is not pushed further down; null: the method's own
    clip_high: float | None = None  # a ratio above 1 + this is not pushed further up; null: the method's own
    kl: float | None = None  # weight of the distance to where the model began, per token; null: the method's own
    inner_epochs: int = 1  # passes over the same replies; above 1 they are of an older model
    mini_batches: int = 1  # updates that the replies are cut into, each pass
    patience: int = 5  # draws of prompts in a row without any difference in reward, after which a run stops
    critic: Critic = field(default_factory=Critic)  # method ppo: how values are learned, and believed
    server: Sampling = field(default_factory=Sampling)  # who samples replies, where it is not this machine


@dataclass(frozen=True, slots=True)
class Method:
    """`by`: what has a ratio of its own. `share`: what a token counts of its completion, from the completion's tokens
    and max_new_tokens. `unit`: what the sum is divided by."""

    # within a group; None: each token has its own, by a value head, and the distance is part of its reward
    advantage: Callable[[Sequence[float]], np.ndarray] | None
    by: Literal["token", "mean", "sum"]
    share: Callable[[Tensor, int], Tensor]
    unit: Literal["completion", "token"] = "completion"
    clip: tuple[float, float] = (0.2, 0.2)
    kl: float = 0.0
    refills: bool = False  # prompts are drawn until enough of them tell completions apart


def alike(size: Tensor, most: int) -> Tensor:
    """Each completion counts the same, however long."""
    return 1 / size


def of_the_longest(size: Tensor, most: int) -> Tensor:
    """Each token counts the same; the divisor is a constant, so that length changes no scale."""
    return torch.full_like(size, 1 / most)


def whole(size: Tensor, most: int) -> Tensor:
    return torch.ones_like(size)


METHODS = {
    "grpo": Method(standardised, "token", alike, kl=0.04),
    "dr_grpo": Method(centred, "token", of_the_longest),
    "dapo": Method(standardised, "token", whole, unit="token", clip=(0.2, 0.28), refills=True),
    "gspo": Method(standardised, "mean", alike, clip=(3e-4, 4e-4)),
    "rloo": Method(against_others, "sum", whole, kl=0.05),
    "ppo": Method(None, "token", whole, unit="token", kl=0.05),
}
# of each prompt's replies the best and the worst are a pair, and objective.preference is its loss (`online.py`)
ONLINE = Method(best_and_worst, "sum", whole)


def method_of(asked: Policy) -> Method:
    return ONLINE if asked.method == "online_dpo" else METHODS[asked.method]


def clipped(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A). Schulman et al. 2017, arXiv:1707.06347, eq. 7; with two bounds
    Yu et al. 2025, arXiv:2503.14476, eq. 8 (DAPO)."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def is_clipped(log_ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """(pushed down no further, pushed up no further): where the loss has no slope."""
    ratio = log_ratio.exp()
    return (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0)


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref - now: of tokens that the model sampled itself its mean is KL(now || ref), and it is
    never below 0. Schulman 2020, "Approximating KL divergence"."""
    d = ref_logp - logp
    return d.exp() - d - 1


def tempered(output: Output, temperature: float) -> Tensor:
    """[L] nats of the targets under the distribution that is sampled from at this temperature."""
    if temperature == 1:
        return output.logp()

    def of(logits: Tensor, target: Tensor) -> Tensor:
        return (logits / temperature).log_softmax(-1).gather(1, target[:, None])[:, 0]

    return output.over_vocab(of, output.target)


def bounds(asked: Policy) -> tuple[float, float]:
    low, high = METHODS[asked.method].clip
    return low if asked.clip_low is None else asked.clip_low, high if asked.clip_high is None else asked.clip_high


def has_values(asked: Policy) -> bool:
    """Whether a value head says what was expected, and no reply is compared with others to its prompt."""
    return method_of(asked).advantage is None


def kl_of(asked: Policy) -> float:
    return METHODS[asked.method].kl if asked.kl is None else asked.kl


class Reinforcing:
    """Completions, or their tokens, are the units, and count for their row's weight. A completion is one learned
    segment under its prompt, of which tokens that the model did not write weigh 0; however a group is cut into
    micro-batches, its advantages were made before."""

    def __init__(self, asked: Policy) -> None:
        self.asked, self.method = asked, METHODS[asked.method]
        self.needs = frozenset({"old_logp", "value"} if has_values(asked) else {"old_logp"})

    def count(self, batch: Forest) -> Tensor:
        if self.method.unit == "token":
            return batch.weights.sum(dtype=torch.float64)
        return batch.weights[batch.start].sum(dtype=torch.float64)

    def linear_weights(self, batch: Forest) -> Tensor | None:
        return None

    def share(self, output: Output, batch: Forest) -> Tensor:
        raise AssertionError("completions need nothing shared")

    def __call__(self, output: Output, batch: Forest, shared: Shared | None, others: dict[str, Any]) -> Loss:
        logp_L = tempered(output, self.asked.temperature)
        found = self.of(logp_L, batch, output.segment, output.weight)
        if not has_values(self.asked):
            return found
        assert isinstance(batch.extra, Rollouts)
        values = value_loss(output.scalars["value"].to(logp_L), output.weight, batch.extra, self.asked.critic)
        return Loss(found.total + values.total, found.stats | values.stats)

    def of(self, logp_L: Tensor, batch: Forest, segment_L: Tensor, weight_L: Tensor) -> Loss:
        """The loss of the learned tokens' log-probabilities, whoever scored them."""
        given, segment_L = batch.extra, segment_L.to(logp_L.device)
        assert isinstance(given, Rollouts), "completions come with what the sampler said of them"
        old, advantage_L = given.old_logp.to(logp_L), given.advantage.to(logp_L)
        size_S = batch.num_learned_S.to(logp_L)
        share_L = weight_L.to(logp_L) * self.method.share(size_S, self.asked.max_new_tokens)[segment_L]
        log_ratio, advantage, weight = logp_L - old, advantage_L, share_L
        if self.method.by != "token":
            replies = torch.nonzero(batch.weights[batch.start] != 0)[:, 0].to(logp_L.device)
            sums = torch.zeros(batch.num_segments).to(logp_L).index_add(0, segment_L, logp_L - old)[replies]
            log_ratio = sums / size_S[replies] if self.method.by == "mean" else sums
            first = torch.zeros(batch.num_segments).to(logp_L).index_copy(0, segment_L, advantage_L)
            advantage, weight = first[replies], batch.weights[batch.start].to(logp_L)[replies]
        total = (clipped(log_ratio, advantage, *bounds(self.asked)) * weight).sum()
        if kl_of(self.asked) and not has_values(self.asked):  # there it is in the reward
            assert given.ref_logp is not None, "a distance needs what the reference said"
            total = total + kl_of(self.asked) * (k3(logp_L, given.ref_logp.to(logp_L)) * share_L).sum()
        return Loss(total, told(self.asked, logp_L, given, log_ratio, advantage))


def told(asked: Policy, logp_L: Tensor, given: Rollouts, log_ratio: Tensor, advantage: Tensor) -> dict[str, Ratio]:
    """Means over tokens; ratio and clipping over what has a ratio. Entropy and KL are estimated by what was sampled."""

    def mean(each: Tensor) -> Ratio:
        each = each.detach().double()
        return Ratio(each.sum(), torch.tensor(float(each.numel()), dtype=torch.float64, device=each.device))

    low, high = is_clipped(log_ratio.detach(), advantage, *bounds(asked))
    found = {"ratio": mean(log_ratio.detach().exp()), "clipped_low_frac": mean(low), "clipped_high_frac": mean(high)}
    found["entropy_nats"] = mean(-logp_L)
    if given.age == 0:  # nothing was learned since: what differs is how sampler and trainer round
        found["mismatch_nats"] = mean((logp_L - given.old_logp.to(logp_L)).abs())
    if given.ref_logp is not None:
        found["kl_nats"] = mean(k3(logp_L, given.ref_logp.to(logp_L)))
    return found
