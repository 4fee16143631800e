"""R9: after three updates in a row without finite numbers, training goes back and passes them by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults import jobs
from tests.faults.conftest import Counted

from tunesmith.build import TENANT, feed_of, num_updates, start
from tunesmith.engine import checkpoint
from tunesmith.engine.session import Session
from tunesmith.errors import NotFinite
from tunesmith.folder import CHECKPOINTS, RunFolder, Silent
from tunesmith.teach import skipped_updates, teach, why_left_out
from tunesmith.trackers.tracked import Tracked

BREAKS_AT = 7  # of checkpoints after 2, 4, 6 …; 6 and what comes before are sound


class Breaking(Tracked):
    """Weights so large that the loss is no number, once."""

    session: Session | None = None

    def log(self, update: int, facts: Mapping[str, float]) -> None:
        if self.session is not None and update == BREAKS_AT and "loss" in facts:
            next(iter(self.session.tenants[TENANT].masters.values())).fill_(1e30)
            self.session = None


def taught(
    out: Path, on_nan: Any, passed: tuple[int, ...] = (), *, breaks: bool = True, pinned: bool = False
) -> dict[str, Any]:
    """Trains; what the last checkpoint holds, and what was said."""
    recipe, _, base, made = jobs.world()
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)
            path = out / CHECKPOINTS / checkpoint.checkpoint_name(8)
            if pinned and path.is_dir():
                (path / checkpoint.PINNED).touch()

    folder = RunFolder.open(out, Heard(), resume=False)
    try:
        session = Session(base)
        feed = feed_of(recipe, base, made)
        state = start(recipe, session, made, num_updates(recipe, feed))
        state.on_nan, state.skipped = on_nan, dict.fromkeys(passed, ())
        tracked = Breaking((), out, print)
        tracked.session = session if breaks else None
        with folder.stop, folder.stage("train"):
            teach(recipe, folder, session, made, state, feed, tracked)
        last = checkpoint.newest(out / CHECKPOINTS)[0]
        assert last is not None
        notes = skipped_updates(folder)
        return {
            "tensors": checkpoint.load_file(last / checkpoint.TENSORS),
            "said": said,
            "state": state,
            "notes": notes,
        }
    finally:
        folder.close()
        Session(base).close()


def test_training_goes_back_and_passes_by_what_failed(tmp_path: Path, counted: Counted) -> None:
    back = taught(tmp_path / "back", "rollback", pinned=True)
    between = (7, 8, 9, 10)
    plain = taught(tmp_path / "plain", "abort", between, breaks=False)
    assert back["state"].skipped == plain["state"].skipped == dict.fromkeys(between, ())
    assert all(torch.equal(t, back["tensors"][n]) for n, t in plain["tensors"].items())
    assert any("updates 8 to 10 in a row are not finite: going back" in line for line in back["said"])
    assert "going on from update_0000006" in back["said"]
    [note] = back["notes"]
    assert note.startswith("4 updates were left out")
    assert (tmp_path / "back" / CHECKPOINTS / "left_update_0000008").is_dir()  # it was pinned
    counted("R9", "train.on_nan rollback: back to update 6 from 10, the same bits as a run that passes 7 to 10 by")


def test_without_it_three_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="rollback"):
        taught(tmp_path / "out", "skip")


def test_who_is_to_blame_is_named_by_place_or_by_id() -> None:
    """Rows of data.replay are not in the split."""
    recipe, _, base, made = jobs.world()
    session = Session(base)
    state = start(recipe, session, made, 9)
    session.close()
    blamed = made.split.train[3]
    state.skipped = {1: (), 2: ("general-0", blamed.id)}
    assert why_left_out(made, state, 1) == "training went back from it"
    assert why_left_out(made, state, 2) == f"its numbers are not finite: general-0, {blamed.source}"


def test_what_was_skipped_is_known_after_a_resume(tmp_path: Path) -> None:
    """Two skips, a stop, a third: still three in a row."""
    recipe, _, base, made = jobs.world()
    session = Session(base)
    feed = feed_of(recipe, base, made)
    state = start(recipe, session, made, num_updates(recipe, feed))
    state.skipped = {1: ("a",), 2: ("b", "c")}
    path = checkpoint.save(tmp_path, session, state, feed)
    state.skipped = {}
    checkpoint.load(path, session, state, feed)
    assert state.skipped == {1: ("a",), 2: ("b", "c")}
    session.close()
