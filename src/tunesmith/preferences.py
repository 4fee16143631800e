"""Pairs of replies that people prefer: does the model find the chosen one likelier? It stands beside the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.build import Material, drawn
from tunesmith.data import ingest
from tunesmith.data.pack import pack
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.errors import DataError
from tunesmith.evals.compare import Cases, Rules, secondary
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.preference import measured_pair
from tunesmith.evals.score import segment_sums
from tunesmith.evals.tasks import instructed
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Message, Pair, Record, Segment

PREFERENCES = "scores/preferences.json"


def preferences(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot
) -> dict[str, Any]:
    """The secondary row of preference accuracy; {} where no pairs were named. Both models are asked in the form that
    the tuned one was trained in."""
    if not recipe.evals.preferences:
        return {}
    pairs = pairs_of(recipe)
    kept = folder.read(PREFERENCES)
    if kept is None:
        with folder.doing(f"{len(pairs)} preference pairs under base and tuned"):
            kept = {"example_id": [e.id for e in pairs], "source": [e.source for e in pairs]}
            for name, who in (("base", None), ("tuned", snapshot)):
                kept[name] = pair_logps(recipe, session, made, who, pairs)
        folder.write(PREFERENCES, kept)
    base, tuned = (
        [measured_pair(((c, n), (r, m)), recipe.evals.preference_by) for c, n, r, m in kept[name]]
        for name in ("base", "tuned")
    )
    groups = [e.group for e in pairs] if any(e.group for e in pairs) else None
    rules = Rules(alpha=recipe.evals.alpha, seed=recipe.seed)
    rows = secondary(Cases([None] * len(pairs), base, tuned, groups), [METRICS["preference_accuracy"]], rules)
    return {name: {**row, "num_cases": len(pairs), "by": recipe.evals.preference_by} for name, row in rows.items()}


def pairs_of(recipe: Recipe) -> list[Example]:
    found = ingest.read([Path(p) for p in recipe.evals.preferences], None, recipe.data.reading)
    odd = next((e for e in found.examples if not isinstance(e.target, Pair)), None)
    if odd is not None:
        raise DataError(
            f"evals.preferences: {odd.source} is no pair; wanted are the columns prompt, chosen and rejected"
        )
    return list(drawn(found.examples, recipe.evals.max_cases))


def pair_logps(
    recipe: Recipe, session: Session, made: Material, who: Who, pairs: Sequence[Example]
) -> list[tuple[float, int, float, int]]:
    """(nats of chosen, its tokens, nats of rejected, its tokens) of each pair, end of turn included."""
    records = []
    for example in pairs:
        assert isinstance(example.target, Pair)
        prompt = instructed(example, made.instruction).prompt
        root = np.array(made.renderer.prompt(prompt), dtype=np.int64)
        replies = [reply_of(made, prompt, m) for m in (example.target.chosen, example.target.rejected)]
        children = [Segment(r, np.ones(len(r), np.float32), 0) for r in replies]
        records.append(Record(example.id, (Segment(root, np.zeros(len(root), np.float32)), *children)))
    found: dict[str, tuple[float, int, float, int]] = {}
    for forest in pack(records, recipe.train.micro, session.base.rope):
        [logp_L] = session.logprobs(who, [forest])
        sums = segment_sums(forest, logp_L)
        for index, name in enumerate(forest.example_ids):
            mine = [s for s in sums if int(forest.owner[s]) == index]
            (c, n), (r, m) = ((sums[s], int(forest.stop[s] - forest.start[s])) for s in sorted(mine))
            found[name] = (c, n, r, m)
    return [found[e.id] for e in pairs]


def reply_of(made: Material, prompt: Sequence[Message], message: Message) -> np.ndarray:
    return np.array(made.renderer.reply(prompt, message), dtype=np.int64)
