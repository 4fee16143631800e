"""Which weights are a run's, once its updates are made: the last, a mean, the best on dev, or nearer to the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tunesmith import evaluate, guards
from tunesmith.build import TENANT, Material
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.files import publish_folder, save_tensors
from tunesmith.folder import RunFolder
from tunesmith.recipe import Recipe
from tunesmith.regularisers.average import Mean, towards_base

BEST = Path("best") / "best.safetensors"
NAME = "average.json"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # of the base, tried where the recipe says auto


def averaged(session: Session) -> Snapshot:
    """The tenant as it would be used now: the mean of its weights where one is kept."""
    snapshot = session.publish(TENANT)
    means = [r for r in session.tenants[TENANT].spec.regularisers if isinstance(r, Mean) and r.values]
    return replace(snapshot, values={n: t.clone() for n, t in means[0].values.items()}) if means else snapshot


def keep_best(run: Path, snapshot: Snapshot) -> None:
    """The best weights so far, in the place of those before, whole or not at all."""
    tensors = {n: t.detach().cpu() for n, t in snapshot.values.items()}
    publish_folder(lambda out: {BEST.name: save_tensors(tensors, out / BEST.name)}, run / BEST.parent)


def settle(recipe: Recipe, folder: RunFolder, session: Session, made: Material) -> Snapshot:
    """The run's weights. What was chosen, and from what, stands in average.json."""
    snapshot = averaged(session)
    best = folder.path / BEST
    if recipe.train.early_stop.patience and best.is_file():
        device = session.base.model.device
        snapshot = replace(snapshot, values={n: t.to(device) for n, t in load_file(best).items()})
    asked = recipe.train.average.base_share
    if not asked:
        return snapshot
    facts = folder.read(NAME)
    if facts is None:
        rows = curve(recipe, folder, session, made, snapshot)
        best_first = sorted(rows, key=lambda r: (r["dev_loss"], -r["base_share"])) if asked == "auto" else []
        chosen = next((r["base_share"] for r in best_first if r["base_share"] < 1), asked)
        facts = {"base_share": chosen, "why": "least loss on dev" if asked == "auto" else "said", "tried": rows}
        folder.write(NAME, facts)
    folder.tell.say(f"share of the base in the weights: {facts['base_share']:g} ({facts['why']})")
    return nearer(snapshot, facts["base_share"])


def nearer(snapshot: Snapshot, base_share: float) -> Snapshot:
    """On the line to the base."""
    values = towards_base(snapshot.values, snapshot.slot.neutral, snapshot.slot.pairs, base_share)
    return replace(
        snapshot, name=f"{snapshot.name}, {base_share:g} base" if base_share else snapshot.name, values=values
    )


def curve(
    recipe: Recipe, folder: RunFolder, session: Session, made: Material, snapshot: Snapshot
) -> list[dict[str, Any]]:
    """Loss on dev and on general text at each share of the base, itself included. The choice looks at dev alone."""
    prose = [(p, item) for p in guards.probes_of(session.base) if p.how == "prose" for item in p.items("quick")]
    asked = recipe.train.average.base_share
    shares = sorted({*SHARES, 1.0} if asked == "auto" else {0.0, float(asked), 1.0})
    rows = []
    for number, share in enumerate(shares):
        folder.tell.step(number, len(shares), "weights on the line to the base")
        who = nearer(snapshot, share)
        loss = evaluate.dev_loss(session, who, recipe, made)
        bits = guards.minus_bits(session, who, made.renderer, prose)
        per_byte = -sum(bits) / len(bits) if prose else None
        rows.append({"base_share": share, "dev_loss": loss, "bits_per_byte": per_byte})
    folder.tell.step(len(shares), len(shares), "weights on the line to the base")
    return rows
