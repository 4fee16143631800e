"""The training of a run: the updates that are still to be made, with what is kept and shown of them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith import evaluate
from tunesmith.build import TENANT, Material
from tunesmith.engine import checkpoint
from tunesmith.engine.loop import State, train
from tunesmith.engine.session import Session
from tunesmith.engine.unfreeze import Unfreeze
from tunesmith.errors import NotFinite, RunError
from tunesmith.files import sweep
from tunesmith.folder import CHECKPOINTS, METRICS, RunFolder, peak_gib
from tunesmith.looks import Looks
from tunesmith.recipe import Recipe
from tunesmith.roles import Feed, Listener
from tunesmith.trackers.tracked import Tracked
from tunesmith.watch import NAME as WATCHED
from tunesmith.watch import Watch

NUM_KEPT = 2  # checkpoints, beside the best on dev and what a person pinned


def teach(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, state: State, feed: Feed, tracked: Tracked
) -> None:
    """Goes on from the newest whole checkpoint, if there is one. The first Ctrl-C ends it after a checkpoint."""
    go_on(folder, session, state, feed)
    note_dev_loss(recipe, folder, session, made, state, tracked)
    watch = Watch(recipe, folder, session, made, state.num_updates)
    watch(state.update)
    saver = checkpoint.Saver(folder.path / CHECKPOINTS, NUM_KEPT)
    began = time.monotonic()

    def after_update(update: int, facts: dict[str, float]) -> None:
        saver.check()
        told = {**facts, **feed.told, **session.ranks.told}
        row = {"update": update, **told, "elapsed_s": time.monotonic() - began, "peak_gib": peak_gib()}
        if update in state.skipped:
            folder.add_lines(METRICS, [{"update": update, "skipped": state.skipped[update]}])
            folder.tell.say(f"update {update} was left out: {why_left_out(made, state, update)}")
        else:
            folder.add_lines(METRICS, [row])
            tracked.log(update, row)
            folder.tell.updated(update, state.num_updates, row)
        is_asked = folder.stop.is_asked
        if update % recipe.train.every_checkpoint == 0 or update == state.num_updates or is_asked:
            saver.save(session, state, feed, best_on_dev(folder))
        if is_asked:
            saver.wait()
            folder.stop.check(f"stopped after update {update} of {state.num_updates}, which is saved")
        note_dev_loss(recipe, folder, session, made, state, tracked)
        watch(update)

    folder.tell.step(state.update, state.num_updates, "updates")
    listeners: list[Listener] = [after_update]
    if recipe.train.unfreeze_groups:
        listeners.append(Unfreeze(session, TENANT, recipe.train.unfreeze_groups, feed.updates_per_epoch))
    looks = Looks(recipe, folder, session, made, state.num_updates)

    def learn() -> None:
        for unfreeze in listeners[1:]:
            unfreeze(state.update, {})
        looks.look(state.update)
        for until in looks.stretches(state.update):
            if looks.is_enough():
                folder.tell.say(f"early stopping: ended after update {state.update} of {state.num_updates}")
                saver.save(session, state, feed, best_on_dev(folder))
                break
            train(session, state, feed, until, listeners)
            looks.look(until)

    def back(failed: NotFinite) -> None:
        saver.wait()
        go_back(folder, session, state, feed, failed)

    with folder.stop.gently("this update"), waited(saver):
        again(learn, back)
    if saver.num_saved:
        share = saver.waited_s / (time.monotonic() - began)
        folder.tell.say(f"{saver.num_saved} checkpoints: training stood still for {saver.waited_s:.1f} s ({share:.1%})")


@contextmanager
def waited(saver: checkpoint.Saver) -> Iterator[None]:
    """The last checkpoint is on the disk behind it, also behind an error; who has no patience does not wait."""
    try:
        yield
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            saver.wait()


def again(learn: Callable[[], None], back: Callable[[NotFinite], None]) -> None:
    """Until it has learned; after each failure from where `back` went."""
    has_ended = False
    while not has_ended:
        try:
            learn()
            has_ended = True
        except NotFinite as error:
            back(error)


def go_on(folder: RunFolder, session: Session, state: State, feed: Feed) -> None:
    """From the newest whole checkpoint. RunError where there are some and none is whole: nothing starts again in
    silence."""
    checkpoints = folder.path / CHECKPOINTS
    if checkpoints.is_dir():
        sweep(checkpoints)
    path, skipped = checkpoint.newest(checkpoints)
    for line in skipped:
        folder.tell.say(f"skipped a checkpoint: {line}")
    if path is not None:
        checkpoint.load(path, session, state, feed)
        folder.tell.say(f"going on from {path.name}")
    elif skipped:
        raise RunError(
            f"none of the checkpoints in {checkpoints} is whole ({'; '.join(skipped)}). Put them back from a copy; or, "
            "to train again from the first update, remove that folder and type the same command"
        )
    for name in (METRICS, WATCHED):
        folder.forget_after(name, state.update)


def go_back(folder: RunFolder, session: Session, state: State, feed: Feed, failed: NotFinite) -> None:
    """From an update that failed behind two that were skipped, to a checkpoint of at least one update before all that
    were skipped in a row; those between are passed by. Raises `failed` where that is not asked for, or none is left."""
    last = first = state.update + 1
    while first - 1 in state.skipped:
        first -= 1
    checkpoints = folder.path / CHECKPOINTS
    there = checkpoint.updates_in(checkpoints)
    if state.on_nan != "rollback" or not any(update < first - 1 for update in there):
        raise failed
    for path in (checkpoints / checkpoint.checkpoint_name(update) for update in there if update >= first - 1):
        if (path / checkpoint.PINNED).exists():
            path.rename(path.with_name(f"left_{path.name}"))
        else:
            shutil.rmtree(path)
    folder.tell.say(f"updates {max(first, last - 2)} to {last} in a row are not finite: going back")
    go_on(folder, session, state, feed)
    state.skipped |= dict.fromkeys(range(state.update + 1, last + 1), ())


def why_left_out(made: Material, state: State, update: int) -> str:
    """With the places of the examples that are to blame; of rows of data.replay, the ids."""
    blamed = dict.fromkeys(state.skipped[update])
    if not blamed:
        return "training went back from it"
    places = {e.id: e.source for e in made.split.train if e.id in blamed}
    return f"its numbers are not finite: {', '.join(places.get(name, name) for name in blamed)}"


def skipped_updates(folder: RunFolder) -> list[str]:
    """For the verdict's notes."""
    rows = [r["skipped"] for r in folder.metrics() if "skipped" in r]
    ids = sorted({e for blamed in rows for e in blamed})
    examples = f"; examples: {', '.join(ids[:5])}" * bool(ids)
    return [
        f"{len(rows)} updates were left out, for loss or gradient were not finite"
        f"{examples}{' (training went back from some)' * (() in map(tuple, rows))}."
    ] * bool(rows)


def best_on_dev(folder: RunFolder) -> int | None:
    """The update after which the loss on dev was least; None where it was measured before training only."""
    measured = [(r["dev_loss"], r["update"]) for r in folder.metrics() if r.get("dev_loss") is not None and r["update"]]
    return min(measured)[1] if measured else None


def note_dev_loss(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, state: State, tracked: Tracked
) -> None:
    """Before the first update, after the last, and every `train.every_dev`, unless it is noted."""
    every = recipe.train.every_dev
    is_due = state.update in (0, state.num_updates) or (every is not None and state.update % every == 0)
    if not is_due or any(r["update"] == state.update and "dev_loss" in r for r in folder.metrics()):
        return
    loss = evaluate.dev_loss(session, TENANT, recipe, made)
    if loss is not None:
        folder.add_lines(METRICS, [{"update": state.update, "dev_loss": loss}])
        tracked.log(state.update, {"dev_loss": loss})
        units = {"pairs": "nats per pair", "scores": "nats per pair", "marks": "per reply"}
        unit = units.get(made.kind.scoring, "nats per token")
        folder.tell.say(f"dev loss at update {state.update}: {loss:.3f} {unit}")
