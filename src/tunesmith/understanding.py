"""What a run leaves behind for those who want to know why: what the cases are about, and which layers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunesmith.build import Material, prompt_text
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.evals.topics import topics
from tunesmith.models.moved import moved

NAME = "understanding.json"


def understand(
    session: Session, snapshot: Snapshot, made: Material, tuned_scores: Sequence[float], alpha: float
) -> dict[str, Any]:
    """understanding.json. Scores are turned where less is better, so that the first topic is always the weakest."""
    turn = -1.0 if made.metric.less_is_better else 1.0
    cases = made.split.test
    texts, scores = [prompt_text(e) for e in cases], [turn * s for s in tuned_scores]
    found = topics([e.id for e in cases], texts, scores, [e.group for e in cases], alpha)
    return {
        "layers": [asdict(m) for m in moved(session.base.model, snapshot.slot, snapshot.values)],
        "topics": [{**asdict(t), "score": turn * t.score} for t in found],
        "metric": made.metric.name,
    }


def weak(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Topics in which the tuned model does worse than elsewhere, beyond chance."""
    return [t for t in facts["topics"] if t["interval"][1] < 0]
