"""PPO: advantages of tokens worked out by hand and in a slow loop, a forest with values against separate sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved
from torch import Tensor

from tunesmith.data.halves import halves
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.objectives import advantage as adv
from tunesmith.objectives import critic, policy
from tunesmith.objectives.critic import Critic, clipped_error
from tunesmith.objectives.policy import Policy, Reinforcing
from tunesmith.rollouts import sampled, valued
from tunesmith.rollouts.sampled import Rollout, laid
from tunesmith.types import Forest, Rollouts

ASKED = Policy(method="ppo", kl=0.3, critic=Critic(gamma=0.9, gae_lambda=0.8, clip=0.25, weight=0.7))
MADE = Reinforcing(ASKED)

# -- advantages of tokens -------------------------------------------------------------------------------------------


def test_gae_by_hand() -> None:
    """d = (0.5 0.25 - 0.5, 0.5 0.75 - 0.25, 1 - 0.75) = (-0.375, 0.125, 0.25); each carries half a half of the next."""
    found = adv.gae([0.0, 0.0, 1.0], [0.5, 0.25, 0.75], gamma=0.5, gae_lambda=0.5)
    assert found == pytest.approx([-0.375 + 0.25 * 0.1875, 0.125 + 0.25 * 0.25, 0.25], abs=1e-12)


def slow(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float, behind: float = 0.0
) -> list[float]:
    """The definition, as a double sum. `behind`: the value of what comes after the last token."""
    num, all_values = len(rewards), [*values, behind]
    delta = [rewards[t] + gamma * all_values[t + 1] - values[t] for t in range(num)]
    return [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, num)) for t in range(num)]


@pytest.mark.parametrize("seed", range(6))
def test_gae_is_the_double_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num, (gamma, lam) = 1 + 4 * seed, rng.uniform(0.3, 1, 2)
    rewards, values = rng.normal(size=(2, num))
    found = adv.gae(rewards, values, gamma, lam)
    assert found == pytest.approx(slow(rewards, values, gamma, lam), abs=1e-6)
    assert found[-1] == pytest.approx(rewards[-1] - values[-1], abs=1e-12)
    assert found != pytest.approx(slow(rewards, values, gamma, lam, behind=values[-1]), abs=1e-3)  # mutant: goes on
    if num > 1:
        assert found != pytest.approx(slow(rewards, values, 1.0, lam), abs=1e-3)  # mutant: gamma dropped
        assert found != pytest.approx(slow(rewards, values, gamma, 1.0), abs=1e-3)  # mutant: lambda dropped


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_the_ends_of_lambda(gamma: float) -> None:
    """1: the discounted return less the value. 0: the error of one step."""
    rewards, values = np.random.default_rng(1).normal(size=(2, 9))
    returns = [sum(gamma ** (k - t) * rewards[k] for k in range(t, 9)) for t in range(9)]
    assert adv.gae(rewards, values, gamma, 1.0) == pytest.approx(np.array(returns) - values, abs=1e-6)
    step = rewards + gamma * np.append(values[1:], 0) - values
    assert adv.gae(rewards, values, gamma, 0.0) == pytest.approx(step, abs=1e-12)
    assert adv.gae(rewards, values, gamma, 0.5) != pytest.approx(step, abs=1e-3)


def test_the_distance_is_part_of_the_reward() -> None:
    """Summed over a reply: the reward less kl times log(pi / ref) of the whole reply."""
    found = adv.token_rewards(2.0, [-1.0, -0.5, -3.0], [-1.5, -0.5, -2.0], kl=0.1)
    assert found == pytest.approx([-0.05, 0.0, 0.1 + 2.0], abs=1e-12)
    assert found.sum() == pytest.approx(2.0 - 0.1 * (-4.5 + 4.0))
    assert adv.token_rewards(2.0, [-1.0, -2.0], [-1.5, -0.5], kl=0.0).tolist() == [0.0, 2.0]


def test_values_that_are_the_mean_of_a_group_give_the_group_baseline() -> None:
    """Then PPO's advantage of every token is that of Dr. GRPO, and its loss, but for whitening, that of DAPO."""
    rewards = [1.0, 0.0, 0.25, 3.0]
    mean = sum(rewards) / 4
    for reward, wanted in zip(rewards, adv.centred(rewards)):
        said = [-1.0] * 6
        by_token = adv.gae(adv.token_rewards(reward, said, said, 0.5), [mean] * 6, gamma=1.0, gae_lambda=1.0)
        assert by_token == pytest.approx([wanted] * 6, abs=1e-12)
    forest_ = laid(replies(), 4096, None)[0]
    logp = numbers(forest_).old_logp + torch.linspace(-0.6, 0.6, len(numbers(forest_).old_logp), dtype=torch.float64)
    weight, segment = learned(forest_)
    dapo = Reinforcing(Policy(method="dapo", clip_high=0.2, kl=0.0))
    mine, theirs = (made.of(logp, forest_, segment, weight).total for made in (MADE, dapo))
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-12)
    other = Reinforcing(Policy(method="dapo", clip_high=0.2, kl=0.3))  # the mutant: the distance is counted twice
    assert abs(other.of(logp, forest_, segment, weight).total.item() - mine.item()) > 1e-3


def learned(batch: Forest) -> tuple[Tensor, Tensor]:
    """(weight, segment) of learned tokens."""
    at = torch.nonzero(batch.weights)[:, 0]
    return batch.weights[at].double(), torch.searchsorted(batch.start, at, right=True) - 1


@pytest.mark.parametrize(
    ("value", "old", "returns", "loss", "slope"),
    [
        (0.5, 0.5, 1.0, 0.125, -0.5),
        (0.6, 0.5, 1.0, 0.08, -0.4),
        (0.9, 0.5, 1.0, 0.045, 0.0),  # held at 0.7, where the error is larger: it gains nothing from going further
        (0.1, 0.5, 1.0, 0.405, -0.9),  # the wrong way: pulled back
        (1.2, 0.5, 0.6, 0.18, 0.6),  # beyond what it should be: pulled back
    ],
)
def test_clipped_values_by_hand(value: float, old: float, returns: float, loss: float, slope: float) -> None:
    one = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    fixed = [torch.tensor(x, dtype=torch.float64) for x in (old, returns)]
    found = clipped_error(one, *fixed, 0.2)
    assert found.item() == pytest.approx(loss)
    assert torch.autograd.grad(found, one)[0].item() == pytest.approx(slope)


def test_explained_variance_by_hand() -> None:
    """Values that are the returns explain all of it, the mean of them nothing, others less than nothing."""
    one = replies()[0]
    returns = (1.0, 2.0, 3.0, 6.0)
    for value, wanted in (
        (returns, 1.0),
        ((3.0,) * 4, 0.0),
        ((0.0, 1.0, 2.0, 5.0), 1.0),
        ((6.0, 3.0, 2.0, 1.0), 1 - 13 / 3.5),
    ):
        found = valued.told([replace(one, value=value, returns=returns)])
        assert found["explained_variance"] == pytest.approx(wanted, abs=1e-3)
    assert "explained_variance" not in valued.told([replace(one, value=returns, returns=(2.0,) * 4)])


# -- a forest is separate sequences ---------------------------------------------------------------------------------


def replies(seed: int = 0) -> list[Rollout]:
    """Four prompts with a common beginning, 1 to 4 replies each, of very different lengths and weights. What was said
    before lies around what an untrained model says, so that much is clipped and much is not."""
    rng, made = np.random.default_rng(seed), []
    begin = rng.integers(3, tiny.VOCABULARY, 7).tolist()
    for group in range(4):
        prompt = (*begin, *rng.integers(3, tiny.VOCABULARY, 2 + group).tolist())
        for k in range(1 + group):
            num = 4 if not made else 1 + (3 * group + 5 * k * k) % 9
            tokens = tuple(rng.integers(3, tiny.VOCABULARY, num).tolist())
            old, ref = rng.normal(-np.log(tiny.VOCABULARY), 0.4, (2, num))
            rollout = Rollout(
                group, f"e{group}", prompt, tokens, tuple(old), "", True, 0.5 + group, float(rng.normal()), {}, "",
                None, False, tuple(ref),
            )  # fmt: skip
            made.append(valued.valued(rollout, tuple(rng.normal(0, 0.3, num)), ASKED))
    return made


def numbers(batch: Forest) -> Rollouts:
    assert isinstance(batch.extra, Rollouts)
    return batch.extra


@pytest.fixture(scope="module")
def session() -> Session:
    return with_head(Session(base_of(dtype=torch.float64)), "full")


def with_head(session: Session, adapt: str) -> Session:
    """A tenant whose head says something already."""
    session.create("t", Spec(ADAPTS[adapt], heads=("value",)))
    tenant = session.tenants["t"]
    for name in ("heads.value.weight", "heads.value.bias"):
        noise = torch.randn(tenant.masters[name].shape, generator=torch.Generator().manual_seed(3))
        tenant.masters[name].copy_(0.1 * noise)
    tenant.slot.holder = None
    if adapt == "lora":
        moved(session, "t")
    return session


def plain(session: Session, rollouts: Sequence[Rollout], mutant: str = "") -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by transformers and torch alone, each reply in a sequence of its own, each formula written out
    again."""
    model, live = session.base.model, session.tenants["t"].slot.live
    session.values("t", laid(rollouts[:1], 4096, None))  # whose weights are live now
    low, high, c = 0.2, 0.2, ASKED.critic
    each = [advantages(r, mutant) for r in rollouts]
    pairs = [(a, r.weight) for r, found in zip(rollouts, each) for a in found]
    units = sum(w for _, w in pairs)
    mean = sum(a * w for a, w in pairs) / units
    spread = (sum(w * (a - mean) ** 2 for a, w in pairs) / units) ** 0.5
    total = torch.zeros((), dtype=torch.float64)
    for p in live.values():
        p.requires_grad_(True)
    for r, found in zip(rollouts, each):
        ids = torch.tensor([*r.prompt, *r.tokens])[None]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logp = model.lm_head(hidden).log_softmax(-1)
        for t, token in enumerate(r.tokens):
            before = len(r.prompt) + t - 1 + (mutant == "value behind the token")
            value = hidden[before] @ live["heads.value.weight"][0] + live["heads.value.bias"][0]
            ratio = (logp[len(r.prompt) + t - 1, token] - r.logp[t]).exp()
            a = (found[t] - mean) / (spread + 1e-8)
            gain = torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)
            held = r.value[t] + (value - r.value[t]).clamp(-c.clip, c.clip)
            wanted = found[t] + r.value[t]
            error = (value - wanted) ** 2
            if mutant != "values not clipped":
                error = torch.maximum(error, (held - wanted) ** 2)
            total = total + r.weight * (-gain + c.weight * error / 2) / units
        if mutant == "prompts are learned":
            total = total + r.weight * ((hidden[:3] @ live["heads.value.weight"][0]) ** 2).sum() / units
    got = torch.autograd.grad(total, list(live.values()), allow_unused=True)
    for p in live.values():
        p.requires_grad_(False)
    return total.item(), {n: g.float() for n, g in zip(live, got) if g is not None}


def advantages(r: Rollout, mutant: str) -> list[float]:
    rewards = [-0.3 * (old - ref) for old, ref in zip(r.logp, r.ref_logp)]
    rewards[-1] += r.reward
    return slow(
        rewards, r.value, 0.9 if mutant != "gamma dropped" else 1.0, 0.8, behind=r.value[-1] * (mutant == "goes on")
    )


def in_forests(session: Session, batches: list[Forest], made: Reinforcing = MADE) -> tuple[float, dict[str, Tensor]]:
    units = float(sum(made.count(b) for b in batches))
    found = session.forward_backward("t", batches, made, 1 / units)
    grads = dict(session.tenants["t"].pending)
    session.forget_gradients("t")
    parts = [found[name].mean for name in ("clipped_low_frac", "clipped_high_frac", "value_clipped_frac")]
    assert all(0 < part < 1 for part in parts)  # both sides of every clip are tried
    return found["loss"].mean, grads


@pytest.mark.parametrize("micro", [4096, 40])
def test_a_forest_equals_separate_sequences(session: Session, micro: int) -> None:
    rollouts = replies()
    assert (len(laid(rollouts, micro, None)) > 1) == (micro == 40)
    mine, theirs = in_forests(session, laid(rollouts, micro, None)), plain(session, rollouts)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-6)
    assert largest(mine[1], theirs[1]) < 1e-6
    assert float(theirs[1]["heads.value.weight"].abs().max()) > 1e-3
    values = torch.cat(session.values("t", laid(rollouts, 4096, None)))
    assert values.numel() == sum(len(r.tokens) for r in rollouts)


@pytest.mark.parametrize(
    "mutant", ["gamma dropped", "goes on", "value behind the token", "values not clipped", "prompts are learned"]
)
def test_mutant_another_loss_is_seen(session: Session, mutant: str) -> None:
    rollouts = replies()
    mine, theirs = in_forests(session, laid(rollouts, 4096, None)), plain(session, rollouts, mutant)
    assert largest(mine[1], theirs[1]) > 1e-3


def test_mutants_of_the_code_are_seen(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = replies()
    right = plain(session, rollouts)[1]

    def seen(target: Any, name: str, other: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(target, name, other)
            batches = laid(rollouts, 4096, None)
            units = float(sum(MADE.count(b) for b in batches))
            session.forward_backward("t", batches, MADE, 1 / units)
            found = dict(session.tenants["t"].pending)
            session.forget_gradients("t")
        assert largest(found, right) > 1e-3, name

    seen(policy, "clipped", lambda d, a, low, high: -d.exp() * a)  # the policy's clip left out
    seen(critic, "clipped_error", lambda v, old, r, clip: (v - r) ** 2 / 2)  # the values' clip left out
    seen(sampled, "scale_of", lambda rows: (0.0, 1.0))  # not whitened


# -- sums and counts ------------------------------------------------------------------------------------------------


def test_advantages_are_whitened_over_the_tokens_of_an_update() -> None:
    rollouts = replies()
    for micro in (4096, 40):
        batches = laid(rollouts, micro, None)
        a, w = (torch.cat(x) for x in ([numbers(b).advantage for b in batches], [learned(b)[0] for b in batches]))
        assert float((a * w).sum()) == pytest.approx(0, abs=1e-9)
        assert float((a * a * w).sum() / w.sum()) == pytest.approx(1, abs=1e-6)
    flat = [replace(r, value=(0.1,) * len(r.tokens), returns=(0.4,) * len(r.tokens)) for r in rollouts]
    assert all(float(numbers(b).advantage.abs().max()) == 0 for b in laid(flat, 40, None))


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_an_update_is_not_cut_by_micro_batches(adapt: str) -> None:
    session, rollouts = with_head(Session(base_of()), adapt), replies()
    whole = gradient(session, "t", laid(rollouts, 4096, None), MADE)
    cut = laid(rollouts, 40, None)
    assert largest(whole, gradient(session, "t", cut, MADE)) < 1e-5
    both = halves(laid(rollouts, 4096, None)[0])
    assert both is not None
    assert largest(whole, gradient(session, "t", [half.forest for half in both], MADE)) < 1e-5
    parts = [rollouts[:3], rollouts[3:]]
    alone = [b for part in parts for b in laid(part, 4096, None)]  # the mutant: whitened by micro-batch
    assert largest(whole, gradient(session, "t", alone, MADE)) > 1e-2
    each = [gradient(session, "t", [b], MADE) for b in cut]
    means = {n: sum(g[n] for g in each) / len(each) for n in whole}
    assert largest(whole, means) > 1e-2  # the mutant: a mean of means


def test_a_row_of_weight_two_is_two_rows() -> None:
    session, rollouts = with_head(Session(base_of()), "full"), [replace(r, weight=1.0) for r in replies()]
    heavy = [replace(r, weight=2.0) if r.group == 2 else r for r in rollouts]
    twice = [*rollouts, *(replace(r, group=9) for r in rollouts if r.group == 2)]
    found = [gradient(session, "t", laid(some, 4096, None), MADE) for some in (heavy, twice, rollouts)]
    assert largest(found[0], found[1]) < 1e-5
    assert largest(found[0], found[2]) > 1e-2


def test_a_head_begins_at_nothing_and_learns_the_returns() -> None:
    """With every return the same, it comes to say just that, and the trunk's answers are the base's at the start."""
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], heads=("value",)))
    batch = laid(
        [replace(r, returns=(0.7,) * len(r.tokens), value=(0.6,) * len(r.tokens)) for r in replies()], 4096, None
    )
    assert float(torch.cat(session.values("t", batch)).abs().max()) == 0
    assert torch.equal(session.logprobs("t", batch)[0], session.logprobs(None, batch)[0])
    for _ in range(60):
        gradient_ = MADE.count(batch[0]).item()
        session.forward_backward("t", batch, MADE, 1 / gradient_)
        session.optim_step("t", 1e-2)
    assert float((torch.cat(session.values("t", batch)) - 0.7).abs().max()) < 0.1
