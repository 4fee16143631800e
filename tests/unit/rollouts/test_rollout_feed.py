"""The feed of sampled completions: what is drawn and sampled, what hangs on a forest, when it stops, how it resumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests import tiny
from tests.laws.sessions import ADAPTS, base_of, moved

from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import DataError, PlanError, RunError
from tunesmith.method import heads_of
from tunesmith.objectives.advantage import standardised
from tunesmith.objectives.critic import Critic
from tunesmith.objectives.policy import Policy, Reinforcing
from tunesmith.rollouts.draws import Draws, Prompts
from tunesmith.rollouts.feed import FOLDER, Actor, RolloutFeed
from tunesmith.rollouts.sampled import laid, opened
from tunesmith.types import Attempt, Example, Forest, Grade, Message, Rollouts, Task

LUCKY = 7  # the token that the toy reward counts
ASKED = Policy(prompts=3, group_size=4, max_new_tokens=6, kl=0.1)
PPO = replace(ASKED, method="ppo", critic=Critic(gae_lambda=0.8))


def prompts(num: int = 8) -> Prompts:
    rng = np.random.default_rng(4)
    begin = rng.integers(3, tiny.VOCABULARY, 9).tolist()
    examples = [Example(f"e{i}", (Message("user", f"q{i}"),), Task({}), source=f"rows:{i}") for i in range(num)]
    tokens = [[*begin, *rng.integers(3, tiny.VOCABULARY, 2 + i % 4).tolist()] for i in range(num)]
    return Prompts(examples, tokens, (2,), lambda reply: " ".join(map(str, reply)))


class Lucky:
    """How often a token stands in a reply; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Attempt] = []

    def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
        self.asked += attempts
        counts = [a.text.split().count(str(LUCKY)) + 0.01 * len(a.text.split()) for a in attempts]
        return [Grade(c, {"lucky": c}, f"{c} times") for c in counts]


def always(attempts: Sequence[Attempt]) -> list[Grade]:
    return [Grade(0.25, why="too short") for _ in attempts]


def learner(folder: Path, asked: Policy = ASKED, reward=None, micro: int = 60):  # type: ignore[no-untyped-def]
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], seed=5, heads=heads_of(Reinforcing(asked))))
    actor = Actor(session, "t")
    draws = Draws(prompts(), asked, epochs=2, seed=3, micro_tokens=micro)
    feed = RolloutFeed(draws, actor, reward or Lucky(), folder)
    return session, State("t", Reinforcing(asked), Schedule("constant"), 1e-2, draws.num_updates), feed


def numbers(forest: Forest) -> Rollouts:
    assert isinstance(forest.extra, Rollouts)
    return forest.extra


def test_what_hangs_on_a_forest_is_the_trainers_own(tmp_path: Path) -> None:
    """Sampler and trainer agree token by token, whatever is packed and cut; the mutant has them in another order."""
    session, state, feed = learner(tmp_path, micro=25)
    moved(session, "t")
    batches = feed.update()
    assert len(batches) > 1  # groups are cut over micro-batches
    for batch in batches:
        [now] = session.logprobs("t", [batch])
        [before] = session.logprobs(None, [batch])
        assert float((now - numbers(batch).old_logp).abs().max()) < 1e-4
        assert float((before - numbers(batch).ref_logp).abs().max()) < 1e-4
        assert float((now - numbers(batch).old_logp.flip(0)).abs().max()) > 0.1
    told = session.forward_backward("t", batches, state.objective, 1.0)
    assert told["mismatch_nats"].mean < 1e-4
    assert told["ratio"].mean == pytest.approx(1, abs=1e-4)
    assert told["kl_nats"].mean > 1e-3


def test_a_table_holds_all_that_was_sampled(tmp_path: Path) -> None:
    reward = Lucky()
    _, _, feed = learner(tmp_path, reward=reward)
    feed.update()
    path = tmp_path / FOLDER / "update_0000001.parquet"
    rows = opened(path)
    assert [r.text for r in rows] == [a.text for a in reward.asked]
    assert len(rows) == feed.told["draws"] * 12
    for k in range(0, len(rows), 4):
        group = rows[k : k + 4]
        assert len({r.group for r in group}) == len({r.prompt for r in group}) == 1
        assert [r.advantage for r in group] == standardised([r.reward for r in group]).tolist()
        assert all(len(r.tokens) == len(r.logp) for r in group)
        assert all(len(r.ref_logp) == (0 if r.is_flat else len(r.tokens)) for r in group)
    assert pq.read_table(path).column("source").to_pylist()[0] == reward.asked[0].example.source
    assert feed.told["reward"] == pytest.approx(np.mean([r.reward for r in rows]))
    assert rows[0].parts == {"lucky": rows[0].reward}


def test_a_group_with_no_difference_is_left_out_and_counted(tmp_path: Path) -> None:
    class FirstOnly(Lucky):
        def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
            graded = super().__call__(attempts)
            return [g if a.example.id in ("e0", "e1", "e2", "e3") else Grade(0.1) for a, g in zip(attempts, graded)]

    _, _, feed = learner(tmp_path, reward=FirstOnly())
    for _ in range(3):
        batches = feed.update()
        assert {name for b in batches for name in b.example_ids} <= {"e0", "e1", "e2", "e3"}
    assert 0 < feed.told["flat_frac"] < 1


def test_dapo_draws_until_a_whole_draw_tells_replies_apart(tmp_path: Path) -> None:
    class Half(Lucky):
        def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
            graded = super().__call__(attempts)
            return [g if int(a.example.id[1:]) % 2 else Grade(1.0) for a, g in zip(attempts, graded)]

    _, _, feed = learner(tmp_path / "dapo", replace(ASKED, method="dapo"), Half())
    live = {name for b in feed.update() for name in b.example_ids}
    assert len(live) >= 3
    assert feed.told["draws"] > 1
    _, _, feed = learner(tmp_path / "grpo", ASKED, Half())
    feed.update()
    assert feed.told["draws"] == 1  # the mutant: grpo takes what there is


def test_every_prompt_is_drawn_once_an_epoch(tmp_path: Path) -> None:
    reward = Lucky()
    _, _, feed = learner(tmp_path, replace(ASKED, prompts=4), reward)
    assert (feed.updates_per_epoch, feed.draws.num_updates) == (2, 4)
    orders = []
    for _ in range(2):
        reward.asked.clear()
        feed.update()
        feed.update()
        drawn = [a.example.id for a in reward.asked[::4]]
        assert sorted(drawn) == [f"e{i}" for i in range(8)]
        orders.append(drawn)
    assert orders[0] != orders[1]


def test_a_reward_that_is_dead_stops_and_says_why(tmp_path: Path) -> None:
    _, _, feed = learner(tmp_path, replace(ASKED, patience=2), always)
    with pytest.raises(RunError, match=r"2 draws in a row of 3 prompts with 4 replies each: all 24 got 0\.25") as error:
        feed.update()
    assert all(word in str(error.value) for word in ("too short", "tunesmith grade", "update_0000001.parquet"))
    assert len(opened(tmp_path / FOLDER / "update_0000001.parquet")) == 24

    def by_prompt(attempts: Sequence[Attempt]) -> list[Grade]:
        return [Grade(float(a.example.id[1:])) for a in attempts]

    _, _, feed = learner(tmp_path, replace(ASKED, patience=2), by_prompt)
    with pytest.raises(RunError, match="those of a prompt all got the same"):
        feed.update()


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    for wrong, said in (
        ({"group_size": 1}, "group_size is 1"), ({"temperature": 0.0}, "temperature is 0"),
        ({"mini_batches": 5}, "mini_batches is 5"), ({"clip_high": 0.0}, "clip_high is 0.0; nothing is learned at 0"),
        ({"kl": -0.1}, "kl is -0.1"), ({"inner_epochs": 0}, "inner_epochs is 0; wanted a number above 0"),
        ({"critic": Critic(gamma=0.9)}, "critic is read by method ppo alone, and it is grpo"),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=said):
            learner(tmp_path, replace(ASKED, **wrong))  # type: ignore[arg-type]
    for critic, said in (
        (Critic(gamma=0), "critic.gamma is 0"), (Critic(gae_lambda=1.1), "critic.gae_lambda is 1.1"),
        (Critic(clip=0), "critic.clip is 0"), (Critic(weight=0), "critic.weight is 0"),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=said):
            learner(tmp_path, replace(PPO, critic=critic))
    with pytest.raises(PlanError, match="mini_batches is 4, and of 3 replies"):
        learner(tmp_path, replace(PPO, group_size=1, mini_batches=4))
    with pytest.raises(RunError, match="is nan; wanted a finite number"):
        learner(tmp_path, reward=lambda attempts: [Grade(float("nan")) for _ in attempts])[2].update()


def test_inner_updates_learn_from_what_was_sampled_once(tmp_path: Path) -> None:
    """Two passes in three parts: every completion twice, none sampled again, and what an older model said is old."""
    asked = replace(ASKED, inner_epochs=2, mini_batches=3)
    reward = Lucky()
    session, state, feed = learner(tmp_path, asked, reward)
    seen: list[int] = []
    told = []

    def note(update: int, facts: dict[str, float]) -> None:
        seen.append(len(reward.asked))
        told.append(facts)

    train(session, state, feed, 6, [note])
    assert len(set(seen)) == 1
    assert "mismatch_nats" in told[0]
    assert all("mismatch_nats" not in facts for facts in told[1:])
    assert abs(told[0]["ratio"] - 1) < 1e-4
    assert max(abs(facts["ratio"] - 1) for facts in told[1:]) > 1e-3
    rows = [r for r in opened(tmp_path / FOLDER / "update_0000001.parquet") if not r.is_flat]
    again = RolloutFeed(Draws(prompts(), asked, 2, 3), Actor(session, "t"), Lucky(), tmp_path / "again")
    session.load_state("t", *fresh())
    tokens = [sum(float(b.weights.sum()) for b in again.update()) for _ in range(6)]
    assert sum(tokens) == 2 * sum(len(r.tokens) for r in rows)
    assert tokens[:3] == tokens[3:]


def fresh() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], seed=5))
    return session.save_state("t")


def test_groups_are_cut_to_micro_batches_and_lose_nothing(tmp_path: Path) -> None:
    _, _, feed = learner(tmp_path)
    feed.update()
    rows = [r for r in opened(tmp_path / FOLDER / "update_0000001.parquet") if not r.is_flat]
    small, large = laid(rows, 25, None), laid(rows, 4096, None)
    assert len(large) == 1 < len(small)
    assert sum(float(b.weights.sum()) for b in small) == float(large[0].weights.sum())
    both = [sorted(torch.cat([numbers(b).old_logp for b in batches]).tolist()) for batches in (small, large)]
    assert both[0] == both[1]


@pytest.mark.parametrize("inner", [(1, 1), (2, 2)])
@pytest.mark.parametrize("method", [ASKED, PPO])
def test_a_resume_from_every_update_is_the_run_that_never_stopped(
    method: Policy, inner: tuple[int, int], tmp_path: Path
) -> None:
    asked = replace(method, inner_epochs=inner[0], mini_batches=inner[1])
    session, state, feed = learner(tmp_path, asked)
    until = 6
    train(session, state, feed, until, [lambda *_: checkpoint.save(tmp_path / "c", session, state, feed)])
    last = checkpoint.taken(session, state, feed)
    is_valued = "optimizer.exp_avg.heads.value.weight" in last.tensors
    assert is_valued == bool(last.tensors.get("masters.heads.value.weight", torch.zeros(1)).any()) == (method is PPO)
    files = {p.name: p.read_bytes() for p in (tmp_path / FOLDER).iterdir()}
    for update in range(1, until):
        session, state, feed = learner(tmp_path, asked)
        checkpoint.load(tmp_path / "c" / checkpoint.checkpoint_name(update), session, state, feed)
        train(session, state, feed, until)
        found = checkpoint.taken(session, state, feed)
        assert found.facts == last.facts
        assert all(torch.equal(t, found.tensors[n]) for n, t in last.tensors.items()), update
        assert {p.name: p.read_bytes() for p in (tmp_path / FOLDER).iterdir()} == files


def test_mutants_of_a_resume_are_seen(tmp_path: Path) -> None:
    """Completions that were changed meanwhile, and another reward's settings, are refused; another seed samples
    otherwise."""
    asked = replace(ASKED, inner_epochs=2)
    session, state, feed = learner(tmp_path, asked)
    train(session, state, feed, 1)
    kept, table = feed.state(), tmp_path / FOLDER / "update_0000001.parquet"
    other = learner(tmp_path, replace(asked, temperature=0.9))[2]
    with pytest.raises(DataError, match="are not those of the saved run"):
        other.load(kept)
    whole = table.read_bytes()
    table.write_bytes(whole + b" ")
    with pytest.raises(RunError, match="is not what was sampled for update 1"):
        learner(tmp_path, asked)[2].load(kept)
    table.write_bytes(whole)
    learner(tmp_path, asked)[2].load(kept)
    texts = [r.text for r in opened(table)]
    actor = Actor(session, "t")
    session.load_state("t", *fresh())
    RolloutFeed(Draws(prompts(), asked, 2, 3), actor, Lucky(), tmp_path / "same").update()
    assert [r.text for r in opened(tmp_path / "same" / FOLDER / table.name)] == texts
    RolloutFeed(Draws(prompts(), asked, 2, 4), actor, Lucky(), tmp_path / "other").update()
    assert [r.text for r in opened(tmp_path / "other" / FOLDER / table.name)] != texts


# -- with values ----------------------------------------------------------------------------------------------------


def test_values_are_what_the_head_said_when_it_was_sampled(tmp_path: Path) -> None:
    """Of the tenant, not of the reference, and by the token; the table has them, and what they should have been."""
    session, state, feed = learner(tmp_path, PPO, micro=25)
    train(session, state, feed, 2)
    batches = feed.update()
    rows = opened(tmp_path / FOLDER / "update_0000003.parquet")
    assert len(batches) > 1
    for batch in batches:
        [now] = session.values("t", [batch])
        value = numbers(batch).value
        assert value is not None
        assert float(now.abs().max()) > 1e-3
        assert float((now - value).abs().max()) < 1e-6
        assert float((now - value.flip(0)).abs().max()) > 1e-3  # the mutant
    missed = [a - v for r in rows for a, v in zip(r.returns, r.value, strict=True)]
    returns = [a for r in rows for a in r.returns]
    assert feed.told["explained_variance"] == pytest.approx(1 - np.var(missed) / np.var(returns))
    assert feed.told["return"] == pytest.approx(np.mean(returns))
    assert all(r.advantage is None and r.value and r.ref_logp for r in rows)


def test_with_values_one_reply_to_a_prompt_is_enough(tmp_path: Path) -> None:
    """A prompt whose replies all got the same teaches too, but a draw in which all got the same does not."""
    reward = Lucky()
    _, _, feed = learner(tmp_path / "one", replace(PPO, group_size=1, prompts=4), reward)
    assert sum(int(b.weights.sum()) for b in feed.update()) == sum(a.num_tokens for a in reward.asked)

    def by_prompt(attempts: Sequence[Attempt]) -> list[Grade]:
        return [Grade(float(a.example.id[1:])) for a in attempts]

    _, _, feed = learner(tmp_path / "by_prompt", PPO, by_prompt)
    assert len({name for b in feed.update() for name in b.example_ids}) == 3
    assert feed.told["flat_frac"] == 0
    _, _, feed = learner(tmp_path / "dead", replace(PPO, patience=2), always)
    with pytest.raises(RunError, match=r"all 24 got 0\.25"):
        feed.update()


def test_a_simple_reward_is_learned(tmp_path: Path) -> None:
    """Several passes over each sampling, without a distance: replies come to hold the lucky token, and the values to
    expect it."""
    asked = replace(PPO, prompts=8, kl=0.0, inner_epochs=3, mini_batches=2)
    session, state, feed = learner(tmp_path, asked)
    rows: list[dict[str, float]] = []
    train(session, state, feed, 42, [lambda update, facts: rows.append(dict(feed.told))])
    assert rows[-1]["reward"] > 5 * rows[0]["reward"]
    assert rows[0]["value"] == 0  # the head began at 0
    assert rows[-1]["value"] > 0.5 * rows[-1]["return"]
