"""Early stopping: dev is looked at every so often; where it gets no better, training ends with the best weights.

What was seen stands in metrics.jsonl and the best weights in best/, so a resume goes on as if nothing had been.
"""

from __future__ import annotations

from tunesmith import evaluate
from tunesmith.build import Material
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.folder import METRICS, RunFolder
from tunesmith.recipe import Recipe
from tunesmith.settled import averaged, keep_best

NUM_LOOKS = 10  # at most, where nobody says how often


def looked_at(recipe: Recipe, num_updates: int) -> set[int]:
    """Updates after which dev is looked at; none where train.early_stop.patience is 0."""
    asked = recipe.train.early_stop
    every = asked.every or -(-num_updates // NUM_LOOKS)
    return {*range(every, num_updates, every), num_updates} if asked.patience else set()


class Looks:
    """Of one run. Where none is due there is one stretch of updates."""

    def __init__(self, recipe: Recipe, folder: RunFolder, session: Session, made: Material, num_updates: int) -> None:
        self.recipe, self.folder, self.session, self.made = recipe, folder, session, made
        self.num_updates, self.updates = num_updates, looked_at(recipe, num_updates)

    def stretches(self, update: int) -> list[int]:
        """Updates at which training pauses, from `update` on."""
        return sorted(u for u in self.updates | {self.num_updates} if u > update)

    def look(self, update: int) -> None:
        """At dev, if it is time and was not done; the best weights so far are kept."""
        if update not in self.updates or any(u == update for u, _ in self.seen()):
            return
        snapshot = averaged(self.session)
        value, row = self.value(snapshot)
        best = min((v for _, v in self.seen()), default=float("inf"))
        if value < best:
            keep_best(self.folder.path, snapshot)
        noted = {key for r in self.folder.metrics() if r["update"] == update for key in r}  # by train.every_dev
        fresh = {key: number for key, number in row.items() if key not in noted}
        self.folder.add_lines(METRICS, [{"update": update, **fresh, "look": value}])
        said = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in row.items())
        self.folder.tell.say(f"early stopping, update {update}: {said}{' (best so far)' if value < best else ''}")

    def seen(self) -> list[tuple[int, float]]:
        return [(r["update"], r["look"]) for r in self.folder.metrics() if "look" in r]

    def value(self, snapshot: Snapshot) -> tuple[float, dict[str, float]]:
        """(what is to be small, as it is noted)."""
        if self.recipe.train.early_stop.on == "loss":
            loss = evaluate.dev_loss(self.session, snapshot, self.recipe, self.made)
            assert loss is not None
            return loss, {"dev_loss": loss}
        sitting = self.folder.sitting("look", "a look at dev")
        score, small = evaluate.dev_score(self.session, snapshot, self.recipe, self.made, sitting)
        return small, {"dev_score": score}

    def is_enough(self) -> bool:
        """`patience` looks in a row were no better than the best before them."""
        values = [v for _, v in self.seen()]
        patience = self.recipe.train.early_stop.patience
        return bool(patience) and len(values) - 1 - values.index(min(values)) >= patience if values else False
