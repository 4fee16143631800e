"""What a run leaves behind for those who want to know why: which errors there are, what the cases are about, and which
layers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from tunesmith.build import Material, prompt_text
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.evals.failing import Side, by_kind, fails, line
from tunesmith.evals.kinds import Said, table_of
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.topics import topics
from tunesmith.models.moved import moved

NAME = "understanding.json"
NOT_OF_ANSWERS = (
    "likelihood",
    "pairs",
    "marks",
    "scores",
    "judge",
    "graded",
)  # a metric that reads these says of no answer that it is wrong


def understand(session: Session, snapshot: Snapshot, made: Material, table: pa.Table, alpha: float) -> dict[str, Any]:
    """understanding.json. `table`: as scores/cases.parquet. Scores are turned where less is better, so that the first
    topic is always the weakest."""
    turn = -1.0 if made.metric.less_is_better else 1.0
    cases = made.split.test
    texts, scores = [prompt_text(e) for e in cases], [turn * s for s in table.column("tuned_score").to_pylist()]
    found = topics([e.id for e in cases], texts, scores, [e.group for e in cases], alpha)
    return {
        "layers": [asdict(m) for m in moved(session.base.model, snapshot.slot, snapshot.values)],
        "topics": [{**asdict(t), "score": turn * t.score} for t in found],
        "errors": errors(made, table.to_pylist(), alpha) if made.kind.has_answers else {},
        "metric": made.metric.name,
    }


def errors(made: Material, rows: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, Any]:
    """The cases that fail by kind of error, of base and tuned; `under`: the score that a case must not fall below, in
    the unit of `metric`."""
    metric = judged_by(made)
    references = [r["reference"] for r in rows]
    kind = table_of(made.task, metric.name, references, made.labels)
    under = line(metric, is_json=kind == "json")
    sides = []
    for who in ("base", "tuned"):
        source = [f"{made.instruction}\n{r['prompt']}" for r in rows]
        said = [Said(s, r["reference"], r[f"{who}_output"], r[f"{who}_stopped"]) for s, r in zip(source, rows)]
        scores = [r[f"{who}_score"] for r in rows]
        if metric is not made.metric:
            scores = metric.cases([s.answer for s in said], references)
        sides.append(Side(said, fails(scores, under)))
    units = [r["group"] or None for r in rows]
    counted = by_kind([r["example_id"] for r in rows], units, (sides[0], sides[1]), kind, made.labels, alpha)
    return {"metric": metric.name, "under": under, "is_whole": under == metric.high, "looked_at": kind, **counted}


def judged_by(made: Material) -> Metric:
    """The primary metric; one of the task's own where that does not read the answer."""
    own = (METRICS[name] for name in (made.kind.metric, *made.kind.secondary))
    return next(m for m in (made.metric, *own) if m.needs not in NOT_OF_ANSWERS)


def weak(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Topics in which the tuned model does worse than elsewhere, beyond chance."""
    return [t for t in facts["topics"] if t["interval"][1] < 0]
