"""Held-out cases are asked: a case once, a dialogue turn by turn, each behind what the model answered before.

The first turns of all dialogues are answered side by side, then the second ones, and so on. Whatever round an
evaluation is stopped in, what was answered is kept, and the same prompts come again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tunesmith.build import Material, prompt_text
from tunesmith.errors import PlanError
from tunesmith.evals import dialogues
from tunesmith.evals.metrics import Metric
from tunesmith.evals.score import Answer, written
from tunesmith.evals.tasks import Form, answer_message, answer_text
from tunesmith.measured import Asking, outputs, sampled, with_numbers
from tunesmith.types import Example, Message

KINDS = {"output": pa.string(), "score": pa.float64(), "stopped": pa.bool_(), "left_out": pa.int64(),
         "measured": pa.list_(pa.float64())}  # fmt: skip
TURN = pa.struct([
    ("prompt", pa.string()), ("reference", pa.string()),
    *((f"{who}_{name}", kind) for who in ("base", "tuned") for name, kind in KINDS.items()),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Put:
    """A turn as it is put to a model."""

    turn: Example  # behind what the model answered before
    prompt: tuple[Message, ...]
    tokens: list[int]
    left_out: int  # of the oldest exchanges


@dataclass(frozen=True, slots=True)
class Putting:
    """In which form of the prompt, and for which context; None: of any length."""

    made: Material
    form: Form
    context: int | None

    def __call__(self, turn: Example, answers: Sequence[str]) -> Put:
        """With the oldest exchanges left out until it fits, where there are such; system message and shots stay."""
        turn, left_out = dialogues.behind(turn, answers) if self.made.plays else turn, 0
        put = self._as_it_is(turn, left_out)
        while self.made.plays and not self.fits(put) and (shorter := dialogues.without_oldest(put.turn)) is not None:
            left_out += 1
            put = self._as_it_is(shorter, left_out)
        return put

    def _as_it_is(self, turn: Example, left_out: int) -> Put:
        prompt = self.form.prompt(turn, self.made.instruction)
        return Put(turn, prompt, self.made.renderer.prompt(prompt), left_out)

    def fits(self, put: Put) -> bool:
        """With its answer, and with the reference, where a metric reads how likely that is."""
        if self.context is None:
            return True
        most = self.made.max_new_tokens
        if any(m.needs == "likelihood" for m in self.made.means.metrics):
            most = max(most, len(self.made.renderer.reply(put.prompt, answer_message(put.turn))))
        return len(put.tokens) + most <= self.context

    def shortest(self, turn: Example) -> Put:
        """As short as it can be put: with nothing before what the user says."""
        while (shorter := dialogues.without_oldest(turn)) is not None:
            turn = shorter
        return self._as_it_is(turn, 0)

    def refuse_too_long(self, first: Sequence[Put], later: Sequence[Example]) -> None:
        """PlanError before anything is asked."""
        if self.context is None:
            return
        sizes = [len(put.tokens) for put in (*first, *map(self.shortest, later))]
        longest = max(sizes, default=0) + self.made.max_new_tokens
        if longest > self.context:
            raise PlanError(
                f"a held-out prompt in the form {self.form.name!r} needs {longest} tokens with its answer, the model's "
                f"context is {self.context}: lower evals.few_shot or evals.max_new_tokens, or drop long rows"
            )


def answers(asking: Asking, put: Putting) -> list[Answer]:
    """In the order of the cases, whose prompts are made here. The deadline is one for all rounds."""
    made, began = put.made, time.monotonic()
    turns = [dialogues.asked_of(e, plays=made.plays) for e in asking.cases]
    said: list[list[Answer]] = [[] for _ in turns]
    asked: list[tuple[list[int], Asking]] = []
    done, total = 0, sum(map(len, turns))
    for number in range(max(map(len, turns), default=0)):
        there = [k for k, mine in enumerate(turns) if number < len(mine)]
        puts = [put(turns[k][number], [a.text for a in said[k]]) for k in there]
        limits = asking.limits
        if number == 0:
            put.refuse_too_long(puts, [turn for mine in turns for turn in mine[1:]])
        else:
            limits = replace(limits, spent_s=time.monotonic() - began)
        sitting = asking.sitting.later(number, done, total)
        now = replace(
            asking, cases=[p.turn for p in puts], prompts=[p.prompt for p in puts], limits=limits, sitting=sitting
        )
        found = written(sampled(now, [p.tokens for p in puts], limits, sitting))
        for k, p, answer in zip(there, puts, found, strict=True):
            said[k].append(replace(answer, left_out=p.left_out))
        asked.append((there, now))
        done += len(there)
    for number, (there, now) in enumerate(asked):
        found = with_numbers(now, [said[k][number] for k in there], made.means)
        for k, answer in zip(there, found, strict=True):
            said[k][number] = answer
    return [whole(mine) for mine in said]


def num_answers(made: Material, cases: Sequence[Example]) -> int:
    """That one model gives to these cases."""
    return len(dialogues.each_turn(cases, plays=made.plays))


def whole(turns: Sequence[Answer]) -> Answer:
    """The answers of a dialogue as one."""
    if len(turns) == 1:
        return turns[0]
    text = dialogues.transcript([t.text for t in turns])
    return Answer(text, all(t.stopped for t in turns), sum(t.num_tokens for t in turns), turns=tuple(turns))


def column(made: Material, base: Sequence[Answer], tuned: Sequence[Answer]) -> dict[str, pa.Array]:
    """`turns` of scores/cases.parquet: of each dialogue its turns, in columns named as those of a case; no column where
    none is played through."""
    if not made.plays:
        return {}
    rows = []
    for example, *sides in zip(made.split.test, base, tuned, strict=True):
        each = dialogues.turns_of(example) if sides[0].turns else ()
        rows.append([cells(made.metric, *turn) for turn in zip(each, *(side.turns for side in sides), strict=True)])
    return {"turns": pa.array(rows, pa.list_(TURN))}


def cells(metric: Metric, turn: Example, base: Answer, tuned: Answer) -> dict[str, Any]:
    said, wanted = dialogues.said_since(turn), answer_text(turn)
    row: dict[str, Any] = {"prompt": prompt_text(replace(turn, prompt=said)) if said else "", "reference": wanted}
    for name, answer in (("base", base), ("tuned", tuned)):
        [read] = outputs(metric, [answer])
        row |= {
            f"{name}_output": answer.text,
            f"{name}_score": None if read is None else float(metric.case(read, wanted)),
            f"{name}_stopped": answer.stopped,
            f"{name}_left_out": answer.left_out,
            f"{name}_measured": None if metric.needs == "answer" or read is None else list(map(float, read)),
        }
    return row


def facts(made: Material, base: Sequence[Answer], tuned: Sequence[Answer]) -> dict[str, Any]:
    """What of the dialogues stands in verdict.json, as `history`: how many there are, the score by turn, and how often
    the beginning of one was left out."""
    cases, metric = made.split.test, made.alone
    wanted = made.references(cases)
    sides = [list(map(dialogues.pairs_of, outputs(metric, side), wanted)) for side in (base, tuned)]
    lengths = [len(turns) for turns in sides[0]]
    by_turn = []
    for number in range(max(lengths)):
        there = [[turns[number] for turns in side if number < len(turns)] for side in sides]
        scores = [metric.corpus([o for o, _ in turns], [w for _, w in turns]) for turns in there]
        by_turn.append({"turn": number + 1, "num": len(there[0]), "base": scores[0], "tuned": scores[1]})
    return {
        "metric": metric.name,
        "num_dialogues": sum(n > 1 for n in lengths),
        "num_turns": sum(lengths),
        "by_turn": by_turn,
        "left_out": {name: num_left_out(side) for name, side in (("base", base), ("tuned", tuned))},
        "num_with_calls": num_with_calls(cases),
    }


def num_left_out(answers: Sequence[Answer]) -> int:
    """Turns that were asked without the beginning of their dialogue."""
    return sum(turn.left_out > 0 for a in answers for turn in a.each)


def num_with_calls(cases: Sequence[Example]) -> int:
    """Cases with several answers in which functions are called: the last one alone is asked."""
    return sum(dialogues.calls_functions(e) and any(map(dialogues.is_answered, e.prompt)) for e in cases)


def notes(found: Mapping[str, Any]) -> list[str]:
    """Of `facts`, what a reader of the verdict must know."""
    said = [
        f"{found['num_dialogues']} of the held-out cases are dialogues, played through by each model on its own "
        f"earlier answers ({found['num_turns']} answers in all); a dialogue counts once, as the mean of its turns."
    ]
    for name, num in found["left_out"].items():
        if num:
            said.append(
                f"{num} turns of the {name} model were asked without the beginning of their dialogue, for which the "
                "model's context had no room."
            )
    if found["num_with_calls"]:
        said.append(
            f"{found['num_with_calls']} held-out dialogues have functions to call: of these only the last answer was "
            "asked, behind the turns of the data."
        )
    return said


def row(made: Material) -> list[tuple[str, object, str]]:
    """For the plan; nothing where no dialogue is played through."""
    if not made.plays:
        return []
    each = [len(dialogues.turns_of(e)) for e in made.split.test]
    num = sum(n > 1 for n in each)
    why = (
        f"{num} of {len(each)} held-out cases are dialogues: {sum(each)} answers of each model, round by round in "
        f"{max(each)} rounds, each behind the model's own; without the oldest turns where the context is too short"
    )
    return [("evals.history", "own", why)]
