"""R6: a resume from every update of three epochs is the run that never stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.faults.conftest import Counted
from tests.laws.sessions import ADAPTS, base_of, records

from tunesmith.data.feed import FileFeed
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base
from tunesmith.objectives.sft import SFT

DROPPED = replace(ADAPTS["lora"], dropout=0.3)
CASES = {  # adapt, update_tokens, micro_tokens
    "dropout": (DROPPED, 64, 64),
    "dropout and accumulation": (DROPPED, 64, 30),
    "packing, an uneven last update": (ADAPTS["lora"], 90, 90),
    "all weights, accumulation": (ADAPTS["full"], 64, 24),
    "one update an epoch": (DROPPED, 10_000, 80),
}


@pytest.fixture(scope="module")
def base() -> Base:
    return base_of()


def learner(base: Base, case: str) -> tuple[Session, State, FileFeed]:
    adapt, update_tokens, micro_tokens = CASES[case]
    session = Session(base)
    feed = FileFeed(records(), update_tokens, micro_tokens, epochs=3, seed=3)
    session.create("t", Spec(Adapt() if adapt is None else adapt, AdamW(weight_decay=0.01), seed=5))
    return session, State("t", SFT(), Schedule("cosine", 0.2), 1e-2, feed.num_updates), feed


@pytest.mark.parametrize("case", CASES)
def test_from_every_update(case: str, base: Base, tmp_path: Path, counted: Counted) -> None:
    session, state, feed = learner(base, case)
    train(session, state, feed, state.num_updates, [lambda *_: checkpoint.save(tmp_path, session, state, feed)])
    last = checkpoint.taken(session, state, feed)
    session.close()
    for update in range(1, state.num_updates):
        session, state, feed = learner(base, case)
        checkpoint.load(tmp_path / checkpoint.checkpoint_name(update), session, state, feed)
        assert state.update == update
        train(session, state, feed, state.num_updates)
        found = checkpoint.taken(session, state, feed)
        session.close()
        assert found.facts == last.facts, update  # counters, and the ledger of consumed ids
        assert all(torch.equal(t, found.tensors[n]) for n, t in last.tensors.items()), update
    counted("R6", f"{state.num_updates - 1} updates of 3 epochs to resume from ({case}): identical")
