"""Dialogues that were played through: the score turn by turn, and the one in which the tuned model does worst."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.report import words
from tunesmith.report.case_views import TurnView, turns
from tunesmith.report.cases import Case
from tunesmith.report.facts import Facts

HEAD = ("Turn", "Dialogues that have it", "Base", "Tuned", "Tuned minus base")
CAP = 4_000  # characters of a text of the worst dialogue


@dataclass(frozen=True, slots=True)
class DialogueView:
    said: str
    caption: str
    rows: tuple[tuple[str, str, str, str, str], ...]  # under HEAD
    worst_said: str
    worst: tuple[TurnView, ...]  # () where no dialogue has a score


def dialogues(facts: Facts) -> DialogueView | None:
    """None where no dialogue was played through."""
    history = (facts.verdict or {}).get("history")
    if not history:
        return None
    lowest = worst(facts)
    score = "" if lowest is None else f"{words.number(lowest.tuned_score)}, the base {words.number(lowest.base_score)}"
    return DialogueView(
        said="The user's turns are as written; each model answered behind its own earlier answers, so what goes "
        "wrong in one turn can go on in the next.",
        caption=f"{words.metric(history['metric'])} by turn. A look inside, not a second verdict: later turns are "
        "those of the longer dialogues only.",
        rows=tuple(
            (str(row["turn"]), words.count(row["num"]), words.number(row["base"]), words.number(row["tuned"]),
             words.signed(row["tuned"] - row["base"]))
            for row in history["by_turn"]
        ),
        worst_said=f"{lowest.source or lowest.example_id}: the tuned model scores {score}." if lowest else "",
        worst=turns(lowest, CAP) if lowest else (),
    )  # fmt: skip


def worst(facts: Facts) -> Case | None:
    """By the tuned model's score; of equals the first by id."""
    scored = [c for c in facts.cases or () if c.turns and c.tuned_score is not None]
    return min(scored, key=lambda c: (goodness(c), c.example_id), default=None)


def goodness(case: Case) -> float:
    assert case.tuned_score is not None
    return -case.tuned_score if case.scale == "less" else case.tuned_score
