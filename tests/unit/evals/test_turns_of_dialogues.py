"""Dialogues: their turns, what stands before each, and a metric of which a dialogue is the unit."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.errors import PlanError
from tunesmith.evals import dialogues
from tunesmith.evals.compare import Cases, compare
from tunesmith.evals.dialogues import behind, over_turns, plays, turns_of, unanswered, without_oldest
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.tasks import answer_text
from tunesmith.types import Example, Label, Message, Reply

SYSTEM, GREETING = Message("system", "Be brief."), Message("assistant", "Hello!", 0.0)


def dialogue(*said: str, first: tuple[Message, ...] = (), **extra: object) -> Example:
    """User and assistant in turn."""
    turns = [Message(("user", "assistant")[k % 2], text, extra=extra if k == 1 else {}) for k, text in enumerate(said)]
    return Example("d-1", (*first, *turns[:-1]), Reply(turns[-1]))


LONG = dialogue("a", "A", "b", "B", "c", "C", first=(SYSTEM, GREETING))


def contents(example: Example) -> list[str]:
    return [m.content for m in example.prompt]


def test_each_learned_turn_is_asked_behind_those_before_it() -> None:
    turns = turns_of(LONG)
    assert [answer_text(t) for t in turns] == ["A", "B", "C"]
    assert [contents(t)[2:] for t in turns] == [["a"], ["a", "A", "b"], ["a", "A", "b", "B", "c"]]
    assert turns[-1] == LONG
    assert [[m.content for m in dialogues.said_since(t)] for t in turns] == [["Hello!", "a"], ["b"], ["c"]]
    assert contents(unanswered(LONG)) == ["Be brief.", "Hello!", "a", "b", "c"]
    context = Example("d-2", (Message("user", "a"), Message("assistant", "A", 0.0), Message("user", "b")), LONG.target)
    for single in (dialogue("a", "A"), context, Example("l", (Message("user", "a"),), Label("x"))):
        assert turns_of(single) == (single,)
        assert unanswered(single) is single


def test_what_functions_gave_back_is_not_put_behind_other_calls() -> None:
    called = dialogue("a", "", "b", "B", tool_calls=[{"function": {"name": "f"}}])
    result = Example("t", (*dialogue("a", "A").prompt, Message("tool", "7")), Reply(Message("assistant", "A")))
    for example in (called, result, dialogue("a", "A", "b", "B", tools=[{}])):
        assert turns_of(example) == (example,)
        assert without_oldest(example) is None
        assert behind(example, []) == example
    none = dialogue("a", "A", "b", "B", tool_calls=[])  # as files hold it that have the field in every row
    assert len(turns_of(none)) == 2


def test_own_answers_stand_where_the_references_did() -> None:
    last = turns_of(LONG)[2]
    put = behind(last, ["x", "y"])
    assert contents(put) == ["Be brief.", "Hello!", "a", "x", "b", "y", "c"]
    assert put.target == last.target
    assert behind(turns_of(LONG)[0], []) == turns_of(LONG)[0]
    with pytest.raises(AssertionError, match="as many answers"):
        behind(last, ["x", "y", "z"])
    left = [contents(behind(last, ["x", "y"], n))[1:] for n in (1, 2, 3)]
    assert left == [["a", "x", "b", "y", "c"], ["b", "y", "c"], ["c"]]
    assert without_oldest(behind(last, ["x", "y"], 3)) is None


def test_rounds_and_cases_are_two_orders_of_the_same_turns() -> None:
    short = dialogue("d", "D")
    rounds = dialogues.rounds([LONG, short], plays=True)
    assert [[answer_text(t) for t in part] for part in rounds] == [["A", "D"], ["B"], ["C"]]
    flat = [answer_text(t) for t in dialogues.each_turn([LONG, short], plays=True)]
    wanted = [dialogues.reference(e, plays=True) for e in (LONG, short)]
    assert wanted == [("A", "B", "C"), "D"]
    assert dialogues.by_case(flat, wanted) == wanted
    assert dialogues.rounds([LONG, short], plays=False) == [[LONG, short]]
    assert dialogues.reference(LONG, plays=False) == "C"
    assert dialogues.transcript(wanted[0]) == "assistant: A\n\nassistant: B\n\nassistant: C"
    assert dialogues.transcript("D") == "D"


WANTED = [("yes", "no", "yes", "no"), ("yes",), "maybe"]
SAID = [("yes", "no", "yes", "yes"), ("no",), "maybe"]


def test_a_dialogue_counts_once_however_long_it_is() -> None:
    """By hand: 3 of 4, 0 of 1, 1 of 1. A mutant that counts turns says 4 of 6."""
    metric = over_turns(METRICS["exact_match"])
    assert metric.cases(SAID, WANTED) == [0.75, 0.0, 1.0]
    assert metric.corpus(SAID, WANTED) == pytest.approx(1.75 / 3)
    flat = [list(zip(*pair)) if isinstance(pair[1], tuple) else [pair] for pair in zip(SAID, WANTED)]
    assert METRICS["exact_match"].corpus(*zip(*(p for part in flat for p in part))) == pytest.approx(4 / 6)
    found = compare(Cases(WANTED * 4, [("no",) * 4, ("no",), "no"] * 4, SAID * 4), metric)
    assert found.num_cases == 12
    assert found.test.startswith("permutation")  # half a dialogue may be right: no McNemar


def texts_read(metric: Metric) -> bool:
    return metric.needs == "answer"


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if texts_read(m)])
def test_with_one_turn_every_metric_is_what_it_was_bit_by_bit(name: str) -> None:
    wanted = [f'{{"fox": {n}, "dog": 1}}' for n in (1, 2, 3, 1)]
    said = [wanted[0], '{"fox": 1}', "so it is 3", ""]
    plain, over = METRICS[name], over_turns(METRICS[name])
    for outputs, references in ((said, wanted), ([(s,) for s in said], [(w,) for w in wanted])):
        assert np.array_equal(over.stats(outputs, references), plain.stats(said, wanted))
        assert over.cases(outputs, references) == plain.cases(said, wanted)
    assert (over.name, over.high, over.less_is_better) == (plain.name, plain.high, plain.less_is_better)


def test_a_judge_is_shown_whole_dialogues() -> None:
    assert over_turns(METRICS["judge"]) is METRICS["judge"]


def test_who_is_played_through() -> None:
    rouge, single = [METRICS["rouge_l"]], dialogue("a", "A")
    assert plays("auto", "chat", [single, LONG], rouge)
    assert not plays("auto", "generate", [LONG], rouge)
    assert plays("own", "generate", [LONG], rouge)
    assert not plays("given", "chat", [LONG], rouge)
    assert not plays("auto", "chat", [single], rouge)
    assert not plays("auto", "chat", [LONG], [METRICS["pass_at_k"]])
    with pytest.raises(PlanError, match="no held-out row has several"):
        plays("own", "chat", [single], rouge)
    with pytest.raises(PlanError, match="those of the last answer"):
        plays("own", "chat", [LONG], [METRICS["pass_at_k"]])
