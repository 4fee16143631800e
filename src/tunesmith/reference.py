"""What pairs and marked replies are learned against: how likely each reply was before update 0.

Computed once, by one pass without gradients whatever it is that trains, and kept in the run's folder with digests of
what it was computed from and of its own numbers; a resume reads it, and so never moves it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from tunesmith.build import TENANT, Material, num_updates, start
from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import pack
from tunesmith.engine.loop import State
from tunesmith.engine.session import Session
from tunesmith.errors import RunError
from tunesmith.files import sha256_text
from tunesmith.folder import RunFolder
from tunesmith.method import objective_of
from tunesmith.objectives.preference import LOSSES, Reference
from tunesmith.preferences import sums_of
from tunesmith.recipe import Recipe
from tunesmith.roles import Foretold
from tunesmith.types import Record

NAME = "reference.json"
CHUNK = 256  # pairs that are packed together


def is_due(recipe: Recipe, made: Material) -> bool:
    return made.kind.referred and (
        made.kind.scoring == "marks" or LOSSES[recipe.objective.preference.loss].has_reference
    )


def begin(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, feed: Foretold
) -> tuple[State, Material]:
    """The state at update 0, and the material with what it learns against."""
    state = start(recipe, session, made, num_updates(recipe, feed))
    return state, keep(recipe, folder, session, made, feed, state)


def keep(recipe: Recipe, folder: RunFolder, session: Session, made: Material, feed: Foretold, state: State) -> Material:
    """The material with the reference of all pairs of training and dev, and `state` learning against it. It stands at
    update 0. RunError where the kept one is of something else, or was changed."""
    if not is_due(recipe, made):
        return made
    assert isinstance(feed, FileFeed)
    path, kept = folder.path / NAME, folder.read(NAME)
    of = about(session, made, feed, state)
    if kept is None:
        with folder.stage("reference"), folder.stop.gently("the reference"):
            records = list(chain(feed.seen(state.num_updates), made.dev.records))
            found = dict(measured(recipe, folder, session, records))
        kept = {"of": of, "digest": digest(found), "nats": found}
        folder.write(NAME, kept)
    if kept.get("of") != of or kept.get("digest") != digest(kept["nats"]):
        raise RunError(
            f"{path} is not what this run computed before its first update, or its rows, base or template changed: "
            "what it learns against would move. Restore the file (or the data) from a copy; or start a new run with "
            "another --out"
        )
    reference: Reference = {name: tuple(nats) for name, nats in kept["nats"].items()}
    state.reference = kept["digest"]
    state.objective = objective_of(recipe, made.kind, made.split.train, reference)
    return replace(made, reference=reference)


def about(session: Session, made: Material, feed: FileFeed, state: State) -> dict[str, str]:
    """What the numbers were computed from."""
    return {
        "model": session.base.digest,
        "parent": "" if made.before is None else made.before.tuned,
        "template": made.renderer.digest,
        "rows": sha256_text(json.dumps([feed.digest, state.num_updates, [r.example_id for r in made.dev.records]])),
    }


def digest(nats: dict[str, Any]) -> str:
    return sha256_text(json.dumps(nats, sort_keys=True))


def measured(
    recipe: Recipe, folder: RunFolder, session: Session, records: Sequence[Record]
) -> Iterator[tuple[str, list[float]]]:
    """(example, nats of its replies, the best first), end of turn included."""
    stream, done = iter(records), 0
    while some := list(islice(stream, CHUNK)):
        for forest in pack(some, recipe.train.micro, session.base.rope):
            [logp_L] = session.logprobs(TENANT, [forest])
            yield from ((name, sums[::2]) for name, sums in sums_of(forest, logp_L).items())
            done += len(forest.example_ids)
            folder.tell.step(done, len(records), "pairs under the reference")
            folder.stop.check("stopped before the first update; the reference is computed again")
