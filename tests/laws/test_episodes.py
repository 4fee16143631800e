"""Episodes: what others said is read and never learned, and what stands behind a reply is the template's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import tiny
from tests.data.chat import FAMILIES, tokenizer
from tests.laws.cases import apart, assert_alike, gradients_of
from tests.laws.test_policy import MOST, sequence
from tests.laws.test_render import KINDS, NOT_A_PREFIX, conversation
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith.data.render import Renderer
from tunesmith.models.heads import find_head
from tunesmith.models.output import output
from tunesmith.objectives import policy
from tunesmith.objectives.critic import Critic
from tunesmith.objectives.policy import Policy, Reinforcing
from tunesmith.rollouts.sampled import Rollout, laid
from tunesmith.rollouts.valued import valued
from tunesmith.types import Message, Record, Segment

ASKED = {name: Policy(method=name, kl=0.1, max_new_tokens=MOST) for name in ("grpo", "dr_grpo", "dapo", "rloo")} | {  # type: ignore[arg-type]
    "wide gspo": Policy(method="gspo", clip_low=0.3, clip_high=0.4, kl=0.1, max_new_tokens=MOST)
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny.build("llama", dtype=torch.float64)


def record_of(rollout: Rollout) -> Record:
    prompt, tokens = (np.array(x, np.int64) for x in (rollout.prompt, rollout.tokens))
    none = np.zeros(len(prompt), np.float32)
    return Record("e", (Segment(prompt, none), Segment(tokens, np.ones(len(tokens), np.float32), 0)))


def rollouts(model: PreTrainedModel) -> list[Rollout]:
    """Two groups of three episodes with one to three replies; old and reference lie beside what the model says."""
    rng, found = np.random.default_rng(7), []
    for group in range(2):
        prompt = tuple(rng.integers(3, tiny.VOCABULARY, 11 + group).tolist())
        for k in range(3):
            spans = tuple(rng.integers(1, 6, 2 * k + 1).tolist())
            tokens = tuple(rng.integers(3, tiny.VOCABULARY, sum(spans)).tolist())
            bare = Rollout(group, f"e{group}", prompt, tokens, (), "", True, 0.5 + group, 1.0, {}, "", 0.0, False,
                           spans=spans)  # fmt: skip
            with torch.no_grad():
                now = sequence(model, record_of(bare), 0, 1.0).numpy()[bare.is_own]
            old, ref = (tuple((now - rng.normal(0, spread, len(now))).tolist()) for spread in (0.3, 0.5))
            found.append(replace(bare, logp=old, ref_logp=ref, advantage=float(rng.normal())))
    return found


def in_a_forest(model: PreTrainedModel, rows: list[Rollout], asked: Policy) -> Tensor:
    [batch] = laid(rows, 4096, None)
    objective = Reinforcing(asked)
    loss = objective(output(model, find_head(model), batch, "forest"), batch, None, {})
    return loss.total / objective.count(batch)


def plain(model: PreTrainedModel, rows: list[Rollout], asked: Policy) -> Tensor:
    """Each episode as one sequence by transformers alone, its own tokens picked by a mask."""
    total, count, (low, high) = torch.zeros((), dtype=torch.float64), 0.0, policy.bounds(asked)
    for row in rows:
        logp = sequence(model, record_of(row), 0, 1.0)[torch.from_numpy(row.is_own)]
        old, ref = torch.tensor(row.logp, dtype=torch.float64), torch.tensor(row.ref_logp, dtype=torch.float64)
        advantage, num = row.advantage or 0.0, len(logp)
        kl = policy.kl_of(asked) * ((ref - logp).exp() - (ref - logp) - 1)
        d = {"gspo": (logp - old).mean(), "rloo": (logp - old).sum()}.get(asked.method, logp - old)
        each = -torch.minimum(d.exp() * advantage, d.exp().clamp(1 - low, 1 + high) * advantage)
        per = {"grpo": num, "dr_grpo": MOST, "gspo": num}.get(asked.method, 1)
        whole = each.sum() + kl.sum() / per if d.ndim == 0 else (each + kl).sum() / per
        total, count = total + row.weight * whole, count + row.weight * (num if asked.method == "dapo" else 1)
    return total / count


@pytest.mark.parametrize("name", ASKED)
def test_an_episode_is_a_sequence_with_what_others_said_masked(model: PreTrainedModel, name: str) -> None:
    asked, rows = ASKED[name], rollouts(model)
    assert_alike(model, in_a_forest(model, rows, asked), plain(model, rows, asked))


def test_mutant_what_others_said_is_learned(model: PreTrainedModel) -> None:
    asked, rows = Policy(kl=0.1, max_new_tokens=MOST), rollouts(model)
    wanted = plain(model, rows, asked)
    greedy = []
    for row in rows:
        known = np.zeros((2, len(row.tokens)))
        known[:, row.is_own] = [row.logp, row.ref_logp]
        greedy.append(replace(row, spans=(), logp=tuple(known[0]), ref_logp=tuple(known[1])))
    found = in_a_forest(model, greedy, asked)
    assert apart(gradients_of(model, found), gradients_of(model, wanted)) > 1e-2


def test_values_are_of_its_own_tokens() -> None:
    """As many as it wrote; the reward comes with the last of them, whatever stands between."""
    row = Rollout(0, "e", (1,), tuple(range(9)), (-1.0,) * 5, "", True, 1.0, 2.0, {}, "", None, False, (-1.0,) * 5,
                  spans=(2, 4, 3))  # fmt: skip
    assert row.is_own.tolist() == [True, True, False, False, False, False, True, True, True]
    found = valued(row, (0.5,) * 5, Policy(method="ppo", critic=Critic(gae_lambda=1.0)))
    assert found.returns == pytest.approx((2.0,) * 5)
    [batch] = laid([found, replace(found, group=1)], 4096, None)
    assert batch.num_learned_S[batch.num_learned_S > 0].tolist() == [5, 5]
    assert int((batch.weights != 0).sum()) == 10


# -- what stands behind a reply ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in NOT_A_PREFIX])
def test_a_dialogue_goes_on_as_the_template_writes_it(name: str, kind: str) -> None:
    """Prompt, reply, what stands behind it, reply, … are the tokens of the whole dialogue, turn by turn."""
    renderer = Renderer(tokenizer(name, kind), 4096)
    said = conversation(name, system=False)
    first = next(k for k, m in enumerate(said) if m.role == "assistant")
    tokens = renderer.prompt(said[:first])
    for at in range(first, len(said) - 2, 2):
        reply = renderer.reply(said[:at], said[at])
        then = [said[at + 1]]
        more = renderer.behind(said[: at + 1], then, reply[-1] == renderer.end_id)
        wanted = renderer.prompt(said[: at + 2])
        if kind == "bytes":  # else a reply in a dialogue begins with a space that a reply does not
            assert [*tokens, *reply, *more] == wanted
        assert wanted[-len(more) :] == more
        assert [*tokens, *reply, *more].count(renderer.end_id) == wanted.count(renderer.end_id)
        doubled = renderer.behind(said[: at + 1], then, is_ended=False)
        assert [*tokens, *reply, *doubled].count(renderer.end_id) > wanted.count(renderer.end_id)  # the mutant
        tokens += [*reply, *more]


@pytest.mark.parametrize("name", ["chatml", "qwen3", "deepseek_r1"])
def test_what_was_sampled_is_no_part_of_what_stands_behind_it(name: str) -> None:
    """Also where the template rewrites what was said."""
    renderer = Renderer(tokenizer(name), 4096)
    asked, then = Message("user", "tunesmithprobe?"), Message("user", "So?")
    plain_ = renderer.behind([asked, Message("assistant", "x")], [Message("user", "Why?")], True)
    assert (
        renderer.behind([asked, Message("assistant", "<think>no</think> y")], [Message("user", "Why?")], True) == plain_
    )
    assert renderer.behind([asked, Message("assistant", "x")], [then], True) != plain_
