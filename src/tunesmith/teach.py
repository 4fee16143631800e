"""The training of a run: the updates that are still to be made, with what is kept and shown of them."""

from __future__ import annotations

import time

from tunesmith import evaluate
from tunesmith.build import TENANT, Material
from tunesmith.data.feed import FileFeed
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.session import Session
from tunesmith.folder import METRICS, RunFolder, peak_gib
from tunesmith.recipe import Recipe
from tunesmith.trackers.tracked import Tracked
from tunesmith.watch import NAME as WATCHED
from tunesmith.watch import Watch

NUM_KEPT = 2  # checkpoints


def teach(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, state: State, feed: FileFeed, tracked: Tracked
) -> None:
    """Goes on from the newest whole checkpoint, if there is one. The first Ctrl-C ends it after a checkpoint."""
    checkpoints = folder.path / "checkpoints"
    path, skipped = checkpoint.newest(checkpoints)
    for line in skipped:
        folder.tell.say(f"skipped a checkpoint: {line}")
    if path is not None:
        checkpoint.load(path, session, state, feed)
        folder.tell.say(f"going on from {path.name}")
    for name in (METRICS, WATCHED):
        folder.forget_after(name, state.update)
    note_dev_loss(recipe, folder, session, made, state, tracked)
    watch = Watch(recipe, folder, session, made, state.num_updates)
    watch(state.update)
    began = time.monotonic()

    def after_update(update: int, facts: dict[str, float]) -> None:
        row = {"update": update, **facts, "elapsed_s": time.monotonic() - began, "peak_gib": peak_gib()}
        folder.add_lines(METRICS, [row])
        tracked.log(update, row)
        folder.tell.updated(update, state.num_updates, row)
        is_asked = folder.stop.is_asked
        if update % recipe.train.every_checkpoint == 0 or update == state.num_updates or is_asked:
            checkpoint.save(checkpoints, session, state, feed)
            checkpoint.keep(checkpoints, NUM_KEPT)
        if is_asked:
            folder.stop.check(f"stopped after update {update} of {state.num_updates}, which is saved")
        watch(update)

    folder.tell.step(state.update, state.num_updates, "updates")
    with folder.stop.gently("this update"):
        train(session, state, feed, state.num_updates, [after_update])
    note_dev_loss(recipe, folder, session, made, state, tracked)


def note_dev_loss(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, state: State, tracked: Tracked
) -> None:
    """Before the first update and after the last, unless it is noted."""
    is_due = state.update in (0, state.num_updates)
    if not is_due or any(r["update"] == state.update and "dev_loss" in r for r in folder.metrics()):
        return
    loss = evaluate.dev_loss(session, TENANT, recipe, made)
    if loss is not None:
        folder.add_lines(METRICS, [{"update": state.update, "dev_loss": loss}])
        tracked.log(state.update, {"dev_loss": loss})
        folder.tell.say(f"dev loss at update {state.update}: {loss:.3f} nats per token")
