"""Pairs that are sampled while it learns: the same loss as of a file, what is drawn into them, and an exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.sessions import ADAPTS, base_of, gradient, largest, moved
from tests.unit.rollouts.test_rollout_feed import Lucky, prompts

from tunesmith.data.halves import halves
from tunesmith.data.pack import pack
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import PlanError
from tunesmith.objectives.advantage import best_and_worst
from tunesmith.objectives.online import Online
from tunesmith.objectives.policy import Policy
from tunesmith.objectives.preference import LOSSES, Preference, Preferring
from tunesmith.rollouts.draws import Draws
from tunesmith.rollouts.feed import FOLDER, Actor, RolloutFeed
from tunesmith.rollouts.sampled import Rollout, opened
from tunesmith.types import Attempt, Forest, Grade, Record, Segment

ASKED = Policy(method="online_dpo", prompts=4, group_size=4, max_new_tokens=6)


def learner(
    folder: Path, asked: Policy = ASKED, reward: Any = None, loss: str = "dpo"
) -> tuple[Session, State, RolloutFeed]:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], seed=5))
    draws = Draws(prompts(), asked, epochs=2, seed=3, micro_tokens=25)
    feed = RolloutFeed(draws, Actor(session, "t"), reward or Lucky(), folder)
    objective = Online(Preference(loss=loss))  # type: ignore[arg-type]
    return session, State("t", objective, Schedule("constant"), 1e-2, draws.num_updates), feed


def table(folder: Path, update: int = 1) -> list[list[Rollout]]:
    """The groups of a sampling."""
    rows = opened(folder / FOLDER / f"update_{update:07d}.parquet")
    return [rows[k : k + ASKED.group_size] for k in range(0, len(rows), ASKED.group_size)]


def as_file(groups: Sequence[Sequence[Rollout]]) -> tuple[list[Forest], dict[str, tuple[float, ...]]]:
    """The best and the worst of each group as a run that reads pairs has them, and what the reference says."""
    found, reference = list[Record](), dict[str, tuple[float, ...]]()
    for group in groups:
        if max(r.reward for r in group) == min(r.reward for r in group):
            continue
        pair = [max(group, key=lambda r: r.reward), min(group, key=lambda r: r.reward)]
        root = Segment(np.array(pair[0].prompt, np.int64), np.zeros(len(pair[0].prompt), np.float32))
        sides = [Segment(np.array(r.tokens, np.int64), np.ones(len(r.tokens), np.float32), 0) for r in pair]
        found.append(Record(f"{group[0].group}", (root, *sides)))
        reference[found[-1].example_id] = tuple(sum(r.ref_logp) for r in pair)
    return pack(found, 4096, None), reference


def test_the_best_and_the_worst_by_hand() -> None:
    assert best_and_worst([0.5, 2.0, 2.0, -1.0, -1.0]).tolist() == [0, 1, 0, -1, 0]
    assert best_and_worst([0.1] * 4).tolist() == [0.0] * 4


@pytest.mark.parametrize("loss", LOSSES)
def test_online_is_offline_on_the_same_pairs(loss: str, tmp_path: Path) -> None:
    """Loss, gradient and what is told, for each loss; temperature is of sampling alone."""
    session, state, feed = learner(tmp_path, replace(ASKED, temperature=0.8), loss=loss)
    moved(session, "t")
    batches = feed.update()
    assert len(batches) > 1  # pairs are cut into micro-batches, and none is torn
    files, reference = as_file(table(tmp_path))
    offline = Preferring(Preference(loss=loss), reference)  # type: ignore[arg-type]
    online = gradient(session, "t", batches, state.objective)
    assert largest(online, gradient(session, "t", files, offline)) < 1e-5
    [told, other] = [
        session.forward_backward("t", given, made, 1.0)
        for given, made in ((batches, state.objective), (files, offline))
    ]
    assert told["margin_nats"].mean == pytest.approx(other["margin_nats"].mean, abs=1e-4)
    assert told["preferred_frac"].mean == other["preferred_frac"].mean


def test_a_loss_is_the_same_to_the_last_digits(tmp_path: Path) -> None:
    """By numbers instead of a model: DPO of [S] log-probabilities, from a feed and from a file. Mutants: the worse one
    first, and a reference that is forgotten."""
    _, state, feed = learner(tmp_path)
    batches = feed.update()
    files, reference = as_file(table(tmp_path))
    torch.manual_seed(0)
    by_text = dict[tuple[int, ...], float]()

    def nats(batch: Forest) -> torch.Tensor:
        keys = [tuple(batch.tokens[a:b].tolist()) for a, b in zip(batch.start.tolist(), batch.stop.tolist())]
        return torch.tensor([by_text.setdefault(k, float(torch.randn(()))) for k in keys], dtype=torch.float64)

    def total(made: Preferring, given: Sequence[Forest]) -> float:
        return sum(float(made.of(nats(b), b).total) for b in given)

    offline = Preferring(Preference(), reference)
    wanted = total(offline, files)
    assert isinstance(state.objective, Online)
    assert total(state.objective, batches) == pytest.approx(wanted, abs=1e-6)
    turned = {name: (worse, better) for name, (better, worse) in reference.items()}
    assert abs(total(Preferring(Preference(), turned), files) - wanted) > 1e-3
    assert abs(total(Preferring(Preference(), None), files) - wanted) > 1e-3


def test_groups_that_are_tied_are_skipped_and_counted(tmp_path: Path) -> None:
    class Half(Lucky):
        def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
            graded = super().__call__(attempts)
            return [g if int(a.example.id[1:]) % 2 else Grade(1.0) for a, g in zip(attempts, graded)]

    _, state, feed = learner(tmp_path, reward=Half())
    batches = feed.update()
    groups = table(tmp_path)
    live = [g for g in groups if not g[0].is_flat]
    assert 0 < len(live) < len(groups)
    assert feed.told["flat_frac"] == pytest.approx(1 - len(live) / len(groups))
    assert float(sum(state.objective.count(b) for b in batches)) == len(live)
    assert sorted(n for b in batches for n in b.example_ids) == sorted(g[0].example_id for g in live)
    for group in groups:
        assert sum(bool(r.ref_logp) for r in group) == (0 if group[0].is_flat else 2)
        assert {r.advantage for r in group} == ({0.0} if group[0].is_flat else {1.0, 0.0, -1.0})


def test_running_out_of_memory_tears_no_pair(tmp_path: Path) -> None:
    session = Session(base_of())
    session.create("t", Spec(ADAPTS["lora"], seed=5))
    feed = RolloutFeed(Draws(prompts(), ASKED, 2, 3, micro_tokens=4096), Actor(session, "t"), Lucky(), tmp_path)
    [whole] = feed.update()
    cut = halves(whole)
    assert cut is not None
    objective = Online(Preference())
    parts = gradient(session, "t", [half.forest for half in cut], objective)
    assert largest(gradient(session, "t", [whole], objective), parts) < 1e-5


@pytest.mark.parametrize("inner", [1, 2])
def test_a_resume_from_every_update_is_the_run_that_never_stopped(inner: int, tmp_path: Path) -> None:
    asked = replace(ASKED, inner_epochs=inner)
    session, state, feed = learner(tmp_path, asked)
    train(session, state, feed, 4, [lambda *_: checkpoint.save(tmp_path / "c", session, state, feed)])
    last = checkpoint.taken(session, state, feed)
    for update in range(1, 4):
        session, state, feed = learner(tmp_path, asked)
        checkpoint.load(tmp_path / "c" / checkpoint.checkpoint_name(update), session, state, feed)
        train(session, state, feed, 4)
        found = checkpoint.taken(session, state, feed)
        assert found.facts == last.facts
        assert all(torch.equal(t, found.tensors[n]) for n, t in last.tensors.items()), update


def test_it_makes_the_better_reply_likelier(tmp_path: Path) -> None:
    session, state, feed = learner(tmp_path)
    train(session, state, feed, 1)
    files, reference = as_file(table(tmp_path))
    told = session.forward_backward("t", files, Preferring(Preference(), reference), 1.0)
    assert told["margin_nats"].mean > 0
    assert told["preferred_frac"].mean > 0.5


def test_what_online_pairs_do_not_read_is_refused(tmp_path: Path) -> None:
    for wrong, said in (
        ({"kl": 0.1}, "kl is not read by method online_dpo"),
        ({"clip_high": 0.3}, "clip_high is not read"),
        ({"mini_batches": 2}, "mini_batches is 2, and by method online_dpo a prompt gives one pair"),
    ):
        with pytest.raises(PlanError, match=said):
            learner(tmp_path, replace(ASKED, **wrong))  # type: ignore[arg-type]
