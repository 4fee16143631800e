"""Two runs that learned from the same rewards, compared on the held-out prompts of both, with the distance that each
paid: appended to bench/results/beside.jsonl.

    python bench/beside.py RUN OTHER [--margin 0.15]

The claim is that RUN is not worse than OTHER by more than the margin: the whole interval of the paired difference lies
above it. The margin has to be chosen before either is looked at.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from tunesmith.evals.compare import Cases, Rules, measure
from tunesmith.evals.metrics import METRICS

RESULTS = Path(__file__).parent / "results" / "beside.jsonl"
LAST = 5  # updates that what was paid is a mean over


def facts(folder: Path) -> dict[str, Any]:
    """How a run learned, and what it paid."""
    recipe = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["resolved"]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    told = {key: fmean(row[key] for row in rows[-LAST:]) for key in ("reward", "kl_nats", "reply_tokens")}
    explained = [row["explained_variance"] for row in rows[-LAST:] if "explained_variance" in row]
    return {
        "method": next(row["value"] for row in recipe if row["key"] == "objective.policy"),
        "updates": len(rows),
        "sampled_tokens": sum(row["sampled_tokens"] for row in rows),
        "last": told | ({"explained_variance": fmean(explained)} if explained else {}),
    }


def scores(folder: Path) -> dict[str, float]:
    rows = pq.read_table(folder / "scores" / "cases.parquet", columns=["example_id", "tuned_score"]).to_pylist()
    return {row["example_id"]: row["tuned_score"] for row in rows}


def compared(run: Path, other: Path, margin: float) -> dict[str, Any]:
    mine, theirs = scores(run), scores(other)
    if mine.keys() != theirs.keys():
        raise SystemExit(f"{run} and {other} have other held-out cases; nothing can be paired")
    before, after = ([(side[name],) for name in sorted(mine)] for side in (theirs, mine))
    found = measure(Cases([None] * len(mine), before, after), METRICS["mean_reward"], Rules())
    return {
        "date": date.today().isoformat(),
        "run": facts(run) | {"mean_reward": found.tuned},
        "other": facts(other) | {"mean_reward": found.base},
        "cases": len(mine),
        "difference": found.effect,
        "interval": found.interval,
        "test": found.test,
        "margin": margin,
        "is_within": found.interval[0] > -margin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--margin", type=float, default=0.15)
    asked = parser.parse_args()
    row = compared(asked.run, asked.other, asked.margin)
    with RESULTS.open("a", encoding="utf-8") as kept:
        kept.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
