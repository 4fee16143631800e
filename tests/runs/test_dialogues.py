"""Chatbots are scored over whole dialogues on their own history: asked round by round, kept, planned, reported."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
import yaml
from tests.runs import tiny_runs
from tests.unit.report.page_reader import form_faults
from tests.unit.test_pace import A_TOKEN, NOTHING, STOPPED

from tunesmith import against_parent, evaluate, played, robustness
from tunesmith.answered import Sitting
from tunesmith.build import Material, compute, feed_of, load_base, material
from tunesmith.compared import compare_runs
from tunesmith.engine.session import Session
from tunesmith.errors import InputError, PlanError
from tunesmith.evals import dialogues
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.score import Answer
from tunesmith.folder import Silent
from tunesmith.footprint import asking_bytes
from tunesmith.measured import outputs
from tunesmith.models.load import Base
from tunesmith.pace import Job
from tunesmith.recipe import Recipe, parse
from tunesmith.run import run
from tunesmith.speeds import read_tokens, shared_of
from tunesmith.types import Completion, Example
from tunesmith.verified import verify

TURN = re.compile(r"<\|im_start\|>assistant\n(.*?)<\|im_end\|>", re.S)
FIRST = "nothing"  # what the planted model says where it said nothing yet


def untold(done: int, total: int) -> None:
    return


def dialogue_file(path: Path, num: int = 60, most: int = 3) -> Path:
    """One to `most` questions each; the answer is always the word of the first."""
    rng = random.Random(3)
    rows = []
    for i in range(num):
        word = rng.choice(tiny_runs.WORDS)
        asked = [f"{word} {i}: what is it?", "say it again", "and once more"][: 1 + i % most]
        turns = [m for q in asked for m in ({"role": "user", "content": q}, {"role": "assistant", "content": word})]
        rows.append({"messages": turns})
    return tiny_runs.written(path, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Base]:
    folder = tmp_path_factory.mktemp("dialogues")
    data = dialogue_file(folder / "rows.jsonl")
    said = tiny_runs.settings(tiny_runs.model_folder(folder / "model"), data, max_updates=2, watch=0)
    said["data"]["test_frac"] = 0.4
    recipe = parse(said)
    return said, load_base(recipe, compute(recipe))


def made_of(world: tuple[dict[str, Any], Base], **evals: Any) -> tuple[Recipe, Material]:
    said, base = world
    recipe = parse({**said, "evals": {**said["evals"], **evals}})
    return recipe, material(recipe, base)


class Planted:
    """Says again what it said last."""

    def __init__(self, base: Base, context: int | None = None) -> None:
        self.base = SimpleNamespace(context_tokens=context)
        self.tokenizer, self.rounds = base.tokenizer, list[int]()

    def sample(self, who: Any, prompts: Any, limits: Any, *, kept: Any, **_: Any) -> list[Completion]:
        said = [TURN.findall(self.tokenizer.decode(p)) for p in prompts]
        done = [Completion((0,), (0.0,), s[-1] if s else FIRST, stopped=True) for s in said]
        kept.keep(dict(enumerate(done)))
        self.rounds.append(len(prompts))
        return done


def ask(session: Any, recipe: Recipe, made: Material, cases: Any, sitting: Sitting | None = None) -> list[Answer]:
    found = evaluate.ask(
        cast(Session, session), None, recipe, made, made.forms[0], cases, sitting or Sitting(untold)
    )  # fmt: skip
    return list(found.answers)


def score(made: Material, cases: Any, answers: list[Answer]) -> float:
    return made.metric.corpus(outputs(made.metric, answers), made.references(cases))


def test_own_history_shows_what_a_written_one_hides(
    world: tuple[dict[str, Any], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted model's second answer depends on its first, which is wrong. Mutant: the reference's history."""
    recipe, own = made_of(world)
    _, given = made_of(world, history="given")
    assert (own.task, own.plays, given.plays) == ("chat", True, False)
    cases = [e for e in own.split.test if dialogues.is_dialogue(e)]
    num = [len(dialogues.turns_of(e)) for e in cases]
    planted = Planted(world[1])
    answers = ask(planted, recipe, own, cases)
    assert planted.rounds == [len(cases), len(cases), sum(n > 2 for n in num)]  # side by side, not one by one
    assert [[t.text for t in a.turns] for a in answers] == [[FIRST] * n for n in num]
    assert answers[0].text == dialogues.transcript([FIRST] * num[0])
    assert score(own, cases, answers) == 0
    assert score(given, cases, ask(planted, recipe, given, cases)) == 1
    monkeypatch.setattr(dialogues, "behind", lambda turn, answers, left_out=0: turn)
    assert score(own, cases, ask(planted, recipe, own, cases)) == pytest.approx(sum(1 - 1 / n for n in num) / len(num))


def test_with_one_turn_a_row_the_result_is_bit_by_bit_the_same(
    world: tuple[dict[str, Any], Base], tmp_path: Path
) -> None:
    said, base = world
    data = dialogue_file(tmp_path / "rows.jsonl", most=1)
    recipe, made = made_of(({**said, "data": {**said["data"], "train": [str(data)]}}, base))
    assert (made.task, made.plays) == ("chat", False)
    over = [tuple(map(dialogues.over_turns, part)) for part in (made.primary, made.secondary)]
    forced = replace(made, plays=True, primary=over[0], secondary=over[1])
    session, rows = Session(base), []
    for which in (made, forced):
        sides = [
            evaluate.ask(session, None, recipe, which, form, which.split.test, Sitting(untold))
            for form in (made.forms[0], made.forms[-1])
        ]
        table = evaluate.case_table(which, *sides)
        verdict = evaluate.verdict_of(recipe, which, sides[0], sides[1], [], [])
        verdict.pop("history", None)
        rows.append((sides, {**verdict, "notes": None}, table.drop_columns(["turns"] * which.plays).to_pydict()))
    session.close()
    assert rows[0][0][0] != rows[0][0][1]
    assert rows[0] == rows[1]
    with pytest.raises(PlanError, match="no held-out row has several"):
        made_of(({**said, "data": {**said["data"], "train": [str(data)]}}, base), history="own")


def test_each_turn_is_asked_behind_the_answers_before(
    world: tuple[dict[str, Any], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, made = made_of(world)
    seen: list[list[list[int]]] = []
    sampled = played.sampled

    def spied(asking: Any, tokens: Any, limits: Any, sitting: Any) -> Any:
        seen.append(tokens)
        return sampled(asking, tokens, limits, sitting)

    monkeypatch.setattr(played, "sampled", spied)
    session = Session(world[1])
    answers = ask(session, recipe, made, made.split.test)
    session.close()
    for number, tokens in enumerate(seen):
        there = [k for k, e in enumerate(made.split.test) if len(dialogues.turns_of(e)) > number]
        for k, found in zip(there, tokens, strict=True):
            turns = list(made.split.test[k].prompt[: 2 * number + 1])
            for before in range(number):
                turns[2 * before + 1] = replace(turns[2 * before + 1], content=answers[k].turns[before].text)
            assert found == made.renderer.prompt(turns)
    texts = {t.text for a in answers for t in a.each}
    assert len(texts) > 3
    assert {len(a.turns) for a in answers} == {0, 2, 3}


def test_old_dialogues_that_were_asked_in_another_way_are_left_out_and_counted(
    world: tuple[dict[str, Any], Base],
) -> None:
    """As those of a run from before this was there, which asked the last answers alone."""
    recipe, made = made_of(world)
    _, given = made_of(world, history="given")
    cases, planted = made.split.test, Planted(world[1])
    then, now = (ask(planted, recipe, which, cases) for which in (given, made))
    old = against_parent.Side(cases, {"base": then, "previous run": then, "tuned": now}, made)
    num = sum(map(dialogues.is_dialogue, cases))
    assert 0 < num < len(cases)
    assert len(old.against("base", made.metric).base) == len(cases) - num
    [note] = against_parent.in_another_way(old)
    assert note.startswith(f"{num} of the {len(cases)} old cases are dialogues")
    assert against_parent.in_another_way(replace(old, answers=dict.fromkeys(old.answers, now))) == []


class Stopped(Exception):
    pass


class Told:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def append(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def stopping_after(num: int) -> tuple[list[int], Callable[[], None]]:
    kept: list[int] = []

    def between() -> None:
        kept.append(1)
        if len(kept) == num:
            raise Stopped

    return kept, between


def test_stopped_in_any_round_it_goes_on_to_the_same_answers(
    world: tuple[dict[str, Any], Base], tmp_path: Path
) -> None:
    recipe, made = made_of(world, rows=5)
    session, path = Session(world[1]), tmp_path / "partial_base.jsonl"
    all_kept, between = stopping_after(10**9)
    whole = ask(session, recipe, made, made.split.test, Sitting(untold, tmp_path / "whole.jsonl", between))
    for num in (1, len(all_kept) - 1):  # in the first round, and in the last
        with pytest.raises(Stopped):
            ask(session, recipe, made, made.split.test, Sitting(untold, path, stopping_after(num)[1]))
        told = Told()
        fresh, between = stopping_after(10**9)
        sitting = Sitting(told.append, path, between)
        assert ask(session, recipe, made, made.split.test, sitting) == whole
        assert len(fresh) == len(all_kept) - num  # what was kept is not asked again, in whichever round
        assert told.steps[-1] == (played.num_answers(made, made.split.test),) * 2
        assert told.steps == sorted(told.steps)
        sitting.forget()
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith("partial")] == []
    session.close()


def test_a_dialogue_that_outgrows_the_context_loses_its_beginning(world: tuple[dict[str, Any], Base]) -> None:
    recipe, made = made_of(world)
    longest = next(e for e in made.split.test if len(dialogues.turns_of(e)) == 3)
    turns, form = dialogues.turns_of(longest), made.forms[0]
    free = played.Putting(made, form, None)
    sizes = [max(len(free(t, [FIRST] * k).tokens), len(free.shortest(t).tokens)) for k, t in enumerate(turns)]
    context = sizes[1] + made.max_new_tokens
    found = played.Putting(made, form, context)(turns[2], [FIRST, FIRST])
    assert (found.left_out, found.turn.prompt[0].content) == (1, "say it again")
    assert len(found.tokens) + made.max_new_tokens <= context < sizes[2] + made.max_new_tokens
    told = replace(made, means=replace(made.means, metrics=(METRICS["bits_per_byte"],)), max_new_tokens=1)
    tight = played.Putting(told, form, len(free(turns[2], [FIRST, FIRST]).tokens) + 1)
    assert tight(turns[2], [FIRST, FIRST]).left_out == 1  # the reference, which is read there too, is longer
    cases = [longest]
    [answer] = ask(Planted(world[1], context), recipe, made, cases)
    assert [t.left_out for t in answer.turns] == [0, 0, 1]
    facts = played.facts(replace(made, split=replace(made.split, test=cases)), [answer], [answer])
    assert facts["left_out"] == {"base": 1, "tuned": 1}
    assert any("1 turns of the tuned model were asked without the beginning" in n for n in played.notes(facts))
    planted = Planted(world[1], len(free.shortest(turns[0]).tokens))
    with pytest.raises(PlanError, match="a held-out prompt in the form 'plain' needs"):
        ask(planted, recipe, made, cases)
    assert planted.rounds == []  # refused before anything is asked


def test_the_plan_counts_every_round_and_the_answers_that_stand_in_later_ones(
    world: tuple[dict[str, Any], Base],
) -> None:
    recipe, made = made_of(world, max_new_tokens=60)
    _, given = made_of(world, max_new_tokens=60, history="given")
    feed, form, cases = feed_of(recipe, world[1], made), made.forms[0], made.split.test
    speeds = replace(STOPPED, tuned=replace(NOTHING, read=A_TOKEN))
    job = Job(recipe, world[1], made, feed, feed.num_updates, speeds, 1, waits=False)

    def read(part: list[Example]) -> int:
        tokens = [made.renderer.prompt(form.prompt(e, made.instruction)) for e in part]
        return read_tokens([len(t) for t in tokens], recipe.evals.rows, shared_of(tokens))[0]

    rounds = dialogues.rounds(cases, plays=True)
    assert len(rounds) == 3
    assert job.asked("tuned", form, cases) == sum(map(read, rounds))
    assert replace(job, made=given).asked("tuned", form, cases) == read(list(cases))
    assert max(job.reply_lengths) < max(r.num_learned for r in made.train.records)  # of one turn, not of a dialogue
    own, plain = (asking_bytes(recipe, world[1], m).evaluate for m in (made, given))
    assert own > 1.5 * plain  # a mutant that does not let prompts grow is as large
    [row] = played.row(made)
    assert (row[1], played.row(given)) == ("own", [])
    num = played.num_answers(made, cases)
    assert f"{num} answers of each model, round by round in 3 rounds" in row[2]
    quick = replace(recipe, evals=replace(recipe.evals, robustness="quick"))
    assert f"beside {2 * num} of the verdict" in robustness.why(quick, made, None)
    assert f"beside {2 * len(cases)} of the verdict" in robustness.why(quick, given, None)


def test_a_whole_run(world: tuple[dict[str, Any], Base], tmp_path: Path) -> None:
    said = {**world[0], "export": ["adapter"]}
    said["evals"] = {**said["evals"], "explain_cases": 1}
    out = tmp_path / "run"
    verdict = run(parse(said), yaml.safe_dump(said), out, Silent())
    rows = pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    history, played_rows = verdict["history"], [r for r in rows if r["turns"]]
    assert history["num_dialogues"] == len(played_rows)
    assert history["num_turns"] == sum(len(r["turns"]) or 1 for r in rows)
    third = sum(len(r["turns"]) > 2 for r in rows)
    assert [t["num"] for t in history["by_turn"]] == [len(rows), len(played_rows), third]
    assert any("played through by each model on its own earlier answers" in n for n in verdict["notes"])
    one = played_rows[0]
    assert [t["prompt"] for t in one["turns"]][1] == "say it again"
    assert one["tuned_score"] == pytest.approx(sum(t["tuned_score"] for t in one["turns"]) / len(one["turns"]))
    assert one["tuned_output"] == dialogues.transcript([t["tuned_output"] for t in one["turns"]])
    assert "assistant" not in one["prompt"]  # what the user says, and none of the reference's answers
    plan = {r["key"]: r for r in json.loads((out / "plan.json").read_text())["resolved"]}
    assert plan["evals.history"]["value"] == "own"
    assert not list((out / "scores").glob("partial_*"))
    html, text = (out / "report.html").read_text(encoding="utf-8"), (out / "report.md").read_text(encoding="utf-8")
    assert form_faults(html) == []
    for page in (html, text):
        assert "Whole dialogues" in page
        assert "The dialogue in which the tuned model does worst" in page
        assert "played through on each model" in page
    [explained] = [json.loads(p.read_text()) for p in (out / "explained").iterdir()]
    case = next(r for r in rows if r["example_id"] == explained["example_id"])
    assert explained["tuned_output"] == (case["turns"][-1]["tuned_output"] if case["turns"] else case["tuned_output"])
    assert [c.name for c in verify(out) if c.passed is False] == []
    [pair] = compare_runs([out, out]).pairs
    assert (pair.effect, compare_runs([out, out]).sides[0].tuned) == (0, pytest.approx(verdict["tuned"]))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("verdict.json", "plan.json", "recipe.yaml", "lock.json"):
        (other / name).write_bytes((out / name).read_bytes())
    (other / "scores").mkdir()
    table = pq.read_table(out / "scores" / "cases.parquet")
    pq.write_table(table.drop_columns(["turns"]), other / "scores" / "cases.parquet")
    with pytest.raises(InputError, match="not all of these played the shared dialogues through"):
        compare_runs([out, other])
