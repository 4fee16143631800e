"""Replies that are marked good or bad: how much likelier each became than it is under the base. The verdict of a run
that learns from marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals.score import Answer, segment_sums
from tunesmith.measured import Asking
from tunesmith.preferences import of_given
from tunesmith.types import Example, Forest, Marked

WENT = {0.0: "as likely as before", 1.0: "likelier than before", -1.0: "less likely than before"}
ALIKE = 0.9  # share of the replies that went one way, from which on it is said


def asked(asking: Asking) -> list[Answer]:
    """Of each case by how much its reply is likelier than under the base."""
    gains = of_given(asking, lambda forest: gains_in(asking.session, asking.who, forest))
    return [answer_of(e, gain) for e, gain in zip(asking.cases, gains, strict=True)]


def gains_in(session: Session, who: Who, forest: Forest) -> dict[str, float]:
    """Nats by which each example's reply is likelier than under the base; of the base itself 0."""
    if who is None:
        return dict.fromkeys(forest.example_ids, 0.0)
    now, before = (segment_sums(forest, session.logprobs(one, [forest])[0]) for one in (who, None))
    owner = forest.owner.tolist()
    return {forest.example_ids[owner[s]]: now[s] - before[s] for s in now}


def answer_of(example: Example, gain: float) -> Answer:
    assert isinstance(example.target, Marked)
    measured = (gain, float(example.target.is_good))
    way = WENT[float((gain > 0) - (gain < 0))]
    return Answer(
        way, stopped=True, num_tokens=0, measured=dict.fromkeys(("feedback_accuracy", "feedback_margin"), measured)
    )


def column(cases: Sequence[Example]) -> dict[str, list[str]]:
    """Of scores/cases.parquet: the marks, where the cases have some."""
    found = [("good" if e.target.is_good else "bad") for e in cases if isinstance(e.target, Marked)]
    return {"mark": found} if found else {}


def notes(cases: Sequence[Example], tuned: Sequence[Answer]) -> list[str]:
    """What a reader of the verdict on marks must know beside it."""
    marks = [isinstance(e.target, Marked) and e.target.is_good for e in cases]
    gains = [float(a.measured["feedback_accuracy"][0]) for a in tuned]
    sides = {True: [g for g, m in zip(gains, marks) if m], False: [g for g, m in zip(gains, marks) if not m]}
    said = [
        f"{sum(g > 0 for g in sides[mark])} of {len(sides[mark])} held-out replies marked {name} became likelier (by "
        f"{mean(sides[mark]):+.3f} nats on average)"
        for mark, name in ((True, "good"), (False, "bad"))
        if sides[mark]
    ]
    found = [" and ".join(said) + "; a model that did not move gets 0.5, and so does one that moved all replies alike."]
    if len(said) < 2:
        found.insert(0, "the held-out replies have one mark only: what it learned of the other was not measured.")
    up = sum(g > 0 for g in gains) / len(gains)
    if not 1 - ALIKE < up < ALIKE:
        found.insert(0, (
            f"{max(up, 1 - up):.0%} of the held-out replies became {'likelier' if up > 0.5 else 'less likely'}, "
            "whatever their mark: feedback_margin tells them apart where the direction does not."
        ))  # fmt: skip
    return found
