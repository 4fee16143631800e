"""Learning from sampled completions: values worked out by hand, a group forest against separate sequences, the cut."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny
from tests.laws.cases import apart, assert_alike, gradients_of
from tests.laws.sessions import gradient, largest, session_on
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.data.halves import halves
from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.generate.limits import Limits
from tunesmith.models.heads import find_head
from tunesmith.models.output import output
from tunesmith.models.probe import probe
from tunesmith.objectives import advantage as adv
from tunesmith.objectives import policy
from tunesmith.objectives.policy import METHODS, Policy, Reinforcing, clipped, has_values, is_clipped, k3
from tunesmith.types import Forest, Record, Rollouts, Segment

MOST = 16
COMPARED = [name for name in METHODS if not has_values(Policy(method=name))]  # type: ignore[arg-type]
ASKED = {name: Policy(method=name, max_new_tokens=MOST) for name in COMPARED} | {  # type: ignore[arg-type]
    "grpo at 0.6": Policy(temperature=0.6, max_new_tokens=MOST),
    "dapo with kl": Policy(method="dapo", kl=0.3),
    "wide gspo": Policy(method="gspo", clip_low=0.05, clip_high=0.08, kl=0.1),
}

# -- advantages -----------------------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    rewards = [1.0, 0.0, 0.0, 3.0]  # mean 1, spread sqrt((0 + 1 + 1 + 4) / 4)
    assert adv.centred(rewards).tolist() == [0, -1, -1, 2]
    assert adv.standardised(rewards) == pytest.approx(np.array([0, -1, -1, 2]) / (math.sqrt(1.5) + 1e-4), abs=1e-12)
    assert adv.against_others(rewards) == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3])
    assert adv.against_others(rewards)[3] == pytest.approx(3 - (1 + 0 + 0) / 3)


@pytest.mark.parametrize("how", [adv.centred, adv.standardised, adv.against_others])
def test_rewards_that_are_all_the_same_teach_exactly_nothing(how) -> None:  # type: ignore[no-untyped-def]
    """0.1 ten times has a mean that is not 0.1: whoever subtracts it finds something."""
    for value in (0.1, 0.7, 1e9 / 3, -2.2):
        assert how([value] * 10).tolist() == [0.0] * 10
    rewards = np.array([0.1] * 10)
    assert (rewards - sum(rewards) / 10).tolist() != [0.0] * 10  # the mutant
    assert how([0.4]).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(5))
def test_advantages_sum_to_nothing_and_follow_shift_and_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=rng.integers(2, 9)).tolist()
    for how in (adv.centred, adv.standardised, adv.against_others):
        found = how(rewards)
        assert abs(found.sum()) < 1e-9
        assert how([r + 17 for r in rewards]) == pytest.approx(found, abs=1e-9)
        larger = how([5 * r for r in rewards])
        assert larger == pytest.approx(found if how is adv.standardised else 5 * found, rel=1e-3)
        assert np.argsort(found, kind="stable").tolist() == np.argsort(rewards, kind="stable").tolist()
    assert abs(np.asarray(rewards).sum()) > 1e-3  # the mutant: rewards without a baseline


# -- clipping and the distance --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on-policy: -A, and the gradient of log pi is -A
        (1.5, 1.0, -1.2, 0.0),  # good enough already
        (0.5, 1.0, -0.5, -0.5),  # a good one that became unlikely is pulled back
        (0.5, -1.0, 0.8, 0.0),  # bad, and pushed down far enough
        (1.5, -1.0, 1.5, 1.5),  # a bad one that became likely is pushed down without a bound
        (1.1, 3.0, -3.3, -3.3),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    found = clipped(log_ratio, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.2)
    assert found.item() == pytest.approx(loss)
    [gradient_] = torch.autograd.grad(found.sum(), [log_ratio])
    assert gradient_.item() == pytest.approx(slope)
    low, high = is_clipped(log_ratio, torch.tensor([advantage]), 0.2, 0.2)
    assert bool(low | high) == (slope == 0)
    assert bool(low) == (ratio < 1 and slope == 0)


def test_dapo_clips_higher() -> None:
    ratio, one = torch.tensor([math.log(1.25)]), torch.ones(1)
    assert clipped(ratio, one, *policy.bounds(Policy(method="dapo"))).item() == pytest.approx(-1.25)
    assert clipped(ratio, one, *policy.bounds(Policy(method="grpo"))).item() == pytest.approx(-1.2)
    assert policy.bounds(Policy(method="gspo", clip_high=0.5)) == (3e-4, 0.5)


def test_k3_is_the_distance_and_never_negative() -> None:
    """Its mean under the model itself is KL(now || ref), which the mutant, the other way round, is not."""
    torch.manual_seed(0)
    now, ref = (torch.randn(50, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    exact = (now.exp() * (now - ref)).sum()
    each = k3(now, ref)
    assert float((now.exp() * each).sum()) == pytest.approx(float(exact), rel=1e-9)
    assert float(each.min()) >= 0
    assert abs(float((now.exp() * k3(ref, now)).sum()) - float(exact)) > 1e-2
    assert k3(now, now).abs().max() == 0


# -- a group forest is separate sequences ---------------------------------------------------------------------------


def groups(num: int = 5, seed: int = 0) -> list[Record]:
    """Prompts with a common beginning, 2 to 5 completions each of very different lengths, and weights of rows."""
    rng = np.random.default_rng(seed)
    prefix, made = rng.integers(3, tiny.VOCABULARY, 9), []
    for i in range(num):
        root = np.concatenate([prefix, rng.integers(3, tiny.VOCABULARY, 2 + i % 3)])
        sizes = [1 + (3 * i + 5 * k * k) % 11 for k in range(2 + i % 4)]
        children = [Segment(rng.integers(3, tiny.VOCABULARY, n), np.full(n, 0.5 + i % 3, np.float32), 0) for n in sizes]
        made.append(Record(f"e{i}", (Segment(root, np.zeros(len(root), np.float32)), *children)))
    return made


def numbers(record: Record, index: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(what the sampler said of each token, what the reference said, advantage) of a completion. Near to the model's
    own where clipping begins is arranged by `laid`."""
    rng = np.random.default_rng([int(record.example_id[1:]), index])
    num = len(record.segments[1 + index].tokens)
    return rng.normal(0, 0.3, num), rng.normal(0, 0.5, num), float(rng.normal())


def laid(rows: list[Record], now: dict[str, list[Tensor]], *, cut: bool = True) -> Forest:
    """A group forest with everything that hangs on it. `now`: what the model says of each completion's tokens, beside
    which old and reference lie."""
    batch = forest(rows)
    by_name, seen = {r.example_id: r for r in rows}, dict.fromkeys((r.example_id for r in rows), 0)
    old, ref, advantages = [], [], []
    for segment in torch.nonzero(batch.weights[batch.start] != 0)[:, 0].tolist():
        name = batch.example_ids[int(batch.owner[segment])]
        mine, theirs, advantage = numbers(by_name[name], seen[name])
        said = now[name][seen[name]].numpy()
        old.append(said - mine)
        ref.append(said - theirs)
        advantages.append(np.full(len(mine), advantage))
        seen[name] += 1
    one = lambda parts: torch.from_numpy(np.concatenate(parts))
    return replace(batch, extra=Rollouts(one(old), one(advantages), one(ref)))


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    found = tiny.build("llama", dtype=torch.float64)
    assert probe(found).layout == "forest"
    return found


def sequence(model: PreTrainedModel, record: Record, index: int, temperature: float) -> Tensor:
    """Nats of each token of a completion, by transformers alone."""
    root, reply = record.segments[0].tokens, record.segments[1 + index].tokens
    ids = torch.from_numpy(np.concatenate([root, reply]))[None]
    logp = (model(input_ids=ids, use_cache=False).logits[0, :-1] / temperature).log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[len(root) - 1 :, 0]


def said_now(model: PreTrainedModel, rows: list[Record], temperature: float) -> dict[str, list[Tensor]]:
    with torch.no_grad():
        return {r.example_id: [sequence(model, r, k, temperature) for k in range(len(r.segments) - 1)] for r in rows}


def plain(model: PreTrainedModel, rows: list[Record], asked: Policy) -> Tensor:
    """The loss, sequence by sequence and token by token, with each formula written out again."""
    total, count = torch.zeros((), dtype=torch.float64), 0.0
    low, high = policy.bounds(asked)
    for row in rows:
        for k in range(len(row.segments) - 1):
            logp, weight = sequence(model, row, k, asked.temperature), float(row.segments[1 + k].weights[0])
            mine, theirs, advantage = numbers(row, k)
            old, ref = (logp.detach() - torch.from_numpy(x) for x in (mine, theirs))
            n = len(logp)
            kl = policy.kl_of(asked) * ((ref - logp).exp() - (ref - logp) - 1)
            if asked.method in ("gspo", "rloo"):
                s = (logp - old).mean().exp() if asked.method == "gspo" else (logp - old).sum().exp()
                each = -torch.minimum(s * advantage, s.clamp(1 - low, 1 + high) * advantage)
                each = each + (kl.mean() if asked.method == "gspo" else kl.sum())
            else:
                tokens = torch.zeros((), dtype=torch.float64)
                for t in range(n):
                    r = (logp[t] - old[t]).exp()
                    tokens = tokens - torch.minimum(r * advantage, r.clamp(1 - low, 1 + high) * advantage) + kl[t]
                each = tokens / {"grpo": n, "dr_grpo": MOST, "dapo": 1}[asked.method]
            total, count = total + weight * each, count + weight * (n if asked.method == "dapo" else 1)
    return total / count


def in_a_forest(model: PreTrainedModel, rows: list[Record], asked: Policy) -> Tensor:
    batch, objective = laid(rows, said_now(model, rows, asked.temperature)), Reinforcing(asked)
    loss = objective(output(model, find_head(model), batch, "forest"), batch, None, {})
    assert 0 < loss.stats["clipped_low_frac"].mean + loss.stats["clipped_high_frac"].mean < 1  # both kinds are tried
    return loss.total / objective.count(batch)


@pytest.mark.parametrize("name", ASKED)
def test_a_group_forest_equals_separate_sequences(model: PreTrainedModel, name: str) -> None:
    rows, asked = groups(), ASKED[name]
    mine, theirs = in_a_forest(model, rows, asked), plain(model, rows, asked)
    assert_alike(model, mine, theirs)


@pytest.mark.parametrize("mutant", ["not clipped", "lengths", "rows weigh alike", "temperature", "kl forgotten"])
def test_mutant_another_loss_is_seen(model: PreTrainedModel, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = groups(), Policy(temperature=0.6, max_new_tokens=MOST)
    wanted = plain(model, rows, asked)
    if mutant == "not clipped":
        monkeypatch.setattr(policy, "clipped", lambda d, a, low, high: -d.exp() * a)
    elif mutant == "lengths":
        monkeypatch.setitem(METHODS, "grpo", replace(METHODS["grpo"], share=policy.of_the_longest))
    elif mutant == "rows weigh alike":
        rows = [replace(r, segments=(r.segments[0], *(evened(s) for s in r.segments[1:]))) for r in rows]
    elif mutant == "temperature":
        monkeypatch.setattr(policy, "tempered", lambda out, temperature: out.logp())
    else:
        asked = replace(asked, kl=0.0)
    found = in_a_forest(model, rows, asked)
    assert apart(gradients_of(model, found), gradients_of(model, wanted)) > 1e-3


def evened(segment: Segment) -> Segment:
    return Segment(segment.tokens, np.ones_like(segment.weights), segment.parent)


@pytest.mark.parametrize("method", COMPARED)
def test_the_first_gradient_is_that_of_the_reward(model: PreTrainedModel, method: str) -> None:
    """Where the sampler is the model itself: -A grad log pi, summed, or in GRPO and GSPO meaned, over a completion."""
    rows, asked = groups(), Policy(method=method, kl=0.0, max_new_tokens=MOST)  # type: ignore[arg-type]
    now = said_now(model, rows, 1.0)
    batch = laid(rows, now)
    assert isinstance(batch.extra, Rollouts)
    with torch.no_grad():
        same = output(model, find_head(model), batch, "forest").logp()
    batch, objective = replace(batch, extra=replace(batch.extra, old_logp=same)), Reinforcing(asked)
    loss = objective(output(model, find_head(model), batch, "forest"), batch, None, {})
    assert loss.stats["ratio"].mean == pytest.approx(1.0, abs=1e-12)
    assert loss.stats["mismatch_nats"].mean < 1e-12
    wanted = torch.zeros((), dtype=torch.float64)
    for row in rows:
        for k in range(len(row.segments) - 1):
            logp, (_, _, a) = sequence(model, row, k, 1.0), numbers(row, k)
            per = {"grpo": len(logp), "gspo": len(logp), "dr_grpo": MOST, "dapo": 1, "rloo": 1}[method]
            wanted = wanted - float(row.segments[1].weights[0]) * a * logp.sum() / per
    found, right = gradients_of(model, loss.total), gradients_of(model, wanted)
    assert apart(found, right) < 1e-6
    assert apart(-found, right) > 1  # the mutant: the sign


# -- sums and counts ------------------------------------------------------------------------------------------------


def measured(session: Session, rows: list[Record]) -> dict[str, list[Tensor]]:
    found = {}
    for row in rows:
        [logp_L] = session.logprobs("t", [forest([row])])
        found[row.example_id] = list(logp_L.split([len(s.tokens) for s in row.segments[1:]]))
    return found


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_no_method_is_cut_by_micro_batches(adapt: str) -> None:
    session, rows = session_on(adapt), groups()
    now = measured(session, rows)
    parts = [rows[:1], rows[1:4], rows[4:]]
    for asked in ASKED.values():
        made = Reinforcing(asked)
        whole = gradient(session, "t", [laid(rows, now)], made)
        cut = gradient(session, "t", [laid(part, now) for part in parts], made)
        assert largest(whole, cut) < 1e-5
    each = [gradient(session, "t", [laid(part, now)], made) for part in parts]
    mean_of_means = {n: (each[0][n] + each[1][n] + each[2][n]) / 3 for n in whole}
    assert largest(whole, mean_of_means) > 1e-3  # the mutant


def test_halves_keep_what_hangs_on_their_tokens() -> None:
    """What running out of memory asks for: rollouts are cut with their completions."""
    session, rows = session_on("lora"), groups()
    batch, made = laid(rows, measured(session, rows)), Reinforcing(Policy())
    both = halves(batch)
    assert both is not None
    whole = gradient(session, "t", [batch], made)
    assert largest(whole, gradient(session, "t", [half.forest for half in both], made)) < 1e-5
    swapped = [replace(half.forest, extra=swap(half.forest.extra)) for half in both]
    assert largest(whole, gradient(session, "t", swapped, made)) > 1e-2  # the mutant


def swap(extra: object) -> Rollouts:
    assert isinstance(extra, Rollouts)
    return replace(extra, advantage=extra.advantage.flip(0))


# -- the sampler's own numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_sampler_says_what_the_trainer_says(temperature: float) -> None:
    """Also tempered: the distribution that was drawn from, which is what is learned."""
    session, rows = session_on("lora"), groups(3)
    prompts = [r.segments[0].tokens.tolist() for r in rows for _ in range(3)]
    limits = Limits(7, (2,), temperature, seed=3, tempered=True)
    done = session.sample("t", prompts, limits, decode=str)
    trees = []
    for at, row in enumerate(rows):
        replies = [np.array(c.tokens) for c in done[3 * at : 3 * at + 3]]
        trees.append(
            Record(row.example_id, (row.segments[0], *(Segment(r, np.ones(len(r), np.float32), 0) for r in replies)))
        )
    found = torch.cat([session.logprobs("t", [forest([t])], temperature)[0] for t in trees])
    said = torch.tensor([lp for c in done for lp in c.logp])
    assert float((found - said).abs().max()) < 1e-4
    if temperature != 1:
        by_the_model = session.sample("t", prompts, replace(limits, tempered=False), decode=str)
        assert [c.tokens for c in by_the_model] == [c.tokens for c in done]
        other = torch.tensor([lp for c in by_the_model for lp in c.logp])
        assert float((found - other).abs().max()) > 0.05  # the mutant
