"""R9: a loss, gradient or weight that is no number changes nothing, and what is to blame is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.faults.conftest import Counted
from tests.laws.sessions import ADAPTS, base_of, records

from tunesmith.data.feed import FileFeed
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import NotFinite, Overflow
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Loss, Record


class Steep(SFT):
    """A finite loss whose gradient is not, where some example is in the batch."""

    def linear_weights(self, batch: Forest) -> None:
        return None

    def __call__(self, output: Any, batch: Forest, shared: Any = None, others: Any = None) -> Loss:
        loss = super().__call__(output, batch, shared, others)
        steep = (output.logp() * 0.0).abs().sum().sqrt() if BAD & set(batch.example_ids) else 0.0
        return Loss(loss.total + steep, loss.stats)


BAD = {"e4", "e9"}


def poisoned_rows(value: float) -> list[Record]:
    """Two examples whose weights are no numbers."""
    return [replaced(r, value) if r.example_id in BAD else r for r in records()]


def replaced(record: Record, value: float) -> Record:
    [segment] = record.segments
    weights = np.where(segment.weights != 0, np.float32(value), np.float32(0))
    return replace(record, segments=(replace(segment, weights=weights),))


def learner(
    rows: list[Record], objective: Any, on_nan: Any = "abort", epochs: int = 2
) -> tuple[Session, State, FileFeed]:
    session = Session(base_of())
    feed = FileFeed(rows, update_tokens=60, micro_tokens=45, epochs=epochs, seed=3)
    session.create("t", Spec(ADAPTS["lora"], seed=5))
    return session, State("t", objective, Schedule(), 1e-2, feed.num_updates, on_nan=on_nan), feed


@pytest.mark.parametrize(
    ("kind", "rows", "objective"),
    [("NaN loss", poisoned_rows(float("nan")), SFT()), ("infinite loss", poisoned_rows(float("inf")), SFT()),
     ("NaN gradient", records(), Steep())],
    ids=["nan", "inf", "gradient"],
)  # fmt: skip
def test_what_is_to_blame_is_named(kind: str, rows: list[Record], objective: Any, counted: Counted) -> None:
    session, state, feed = learner(rows, objective)
    kept: list[checkpoint.Checkpoint] = [checkpoint.taken(session, state, feed)]
    with pytest.raises(NotFinite) as caught:
        train(session, state, feed, state.num_updates, [lambda *_: kept.append(checkpoint.taken(session, state, feed))])
    assert set(caught.value.example_ids) <= BAD
    assert caught.value.example_ids
    assert f"update {state.update + 1}" in str(caught.value)
    after = checkpoint.taken(session, state, feed).tensors
    assert after.keys() == kept[-1].tensors.keys()
    assert all(torch.equal(t, after[n]) for n, t in kept[-1].tensors.items())
    assert not session.tenants["t"].pending
    counted("R9", f"{kind}: no weight and no moment changed, {len(caught.value.example_ids)} of 12 examples named")


def test_skipped_updates_leave_everything_as_it_was(counted: Counted) -> None:
    session, state, feed = learner(poisoned_rows(float("nan")), SFT(), "skip", epochs=3)
    seen: list[checkpoint.Checkpoint] = [checkpoint.taken(session, state, feed)]
    train(session, state, feed, state.num_updates, [lambda *_: seen.append(checkpoint.taken(session, state, feed))])
    assert state.update == state.num_updates
    assert set().union(*state.skipped.values()) == BAD
    for update in range(1, state.num_updates + 1):
        same = all(torch.equal(t, seen[update - 1].tensors[n]) for n, t in seen[update].tensors.items()
                   if n in seen[update - 1].tensors)  # fmt: skip
        assert same == (update in state.skipped), update
    assert all(t.isfinite().all() for t in seen[-1].tensors.values())
    num = f"{len(state.skipped)} of {state.num_updates} updates"
    counted("R9", f"train.on_nan skip: {num} left out, weights untouched by them and finite")


def test_three_in_a_row_are_not_the_data() -> None:
    session, state, feed = learner(records(), SFT(), "skip")
    session.tenants["t"].masters[next(iter(session.tenants["t"].masters))].fill_(float("nan"))
    with pytest.raises(NotFinite) as caught:
        train(session, state, feed, state.num_updates)
    assert state.update == 2
    assert len(caught.value.example_ids) > 2  # all that were asked: the weights are to blame


def test_updates_that_were_passed_by_have_not_failed() -> None:
    """Behind a way back: two of its own are left out before it is not the data."""
    session, state, feed = learner(records(), SFT(), "skip")
    state.skipped = {1: (), 2: ()}
    session.tenants["t"].masters[next(iter(session.tenants["t"].masters))].fill_(float("nan"))
    with pytest.raises(NotFinite):
        train(session, state, feed, state.num_updates)
    assert state.update == 4


def test_a_step_that_breaks_the_weights_is_not_kept(counted: Counted) -> None:
    session, state, feed = learner(records(), SFT())
    train(session, state, feed, 1)
    state.lr = 3e38
    with pytest.raises(Overflow):
        train(session, state, feed, state.num_updates, [lambda *_: pytest.fail("an update was reported")])
    counted("R9", "weights that overflow: the run ends before they are saved")
