"""Why an answer: on a tiny model that learned to read one word, that word is found; gradients keep their laws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import explain, explained
from tunesmith.data.pack import forest
from tunesmith.engine import gradients
from tunesmith.evals.score import Answer
from tunesmith.opened import TUNED, Opened, open_run
from tunesmith.types import Message


def untold(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total, text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    tiny_runs.model_folder(folder / "model")
    rows = tiny_runs.labelled_file(folder / "rows.jsonl", 240)
    learns = {"max_updates": 250, "epochs": 400, "lr": 0.003, "every_checkpoint": 1000}
    recipe = tiny_runs.settings(folder / "model", rows, **learns)
    recipe |= {
        "adapt": {"method": "full"},
        "precision": "float32",
    }  # a law of gradients takes steps that 16 bits round away
    recipe["evals"] |= {"explain_cases": 2}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    done = typed(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--json"])
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def opened(world: Path) -> Opened:
    return open_run(world / "run")


def test_the_word_that_decides_is_found(world: Path, opened: Opened) -> None:
    found = json.loads(typed(["explain", str(world / "run"), "--json"]).out)
    assert [row["layer"] for row in found["layers"]] == ["", "0", "1"]
    verdict = json.loads((world / "run" / "verdict.json").read_text())
    assert verdict["tuned"] > 0.8, "the tiny model learned nothing: the test below would say nothing"
    hits, checked = 0, []
    cases = explain.pq.read_table(world / "run" / "scores" / "cases.parquet").to_pylist()
    right = [c for c in cases if c["tuned_output"] == c["reference"]][:12]
    for case in right:
        prompt = opened.messages((Message("user", case["prompt"]),))
        spans, check = explain.words(opened, prompt, case["tuned_output"], 0, untold, explain.Effort())
        assert "".join(s.text for s in spans) == case["prompt"]
        hits += max(spans, key=lambda s: s.drop).text.strip() == case["reference"]
        checked.append(check)
    # one of six words decides; the label that the model falls back on needs no word to be chosen
    assert hits >= 0.5 * len(right)
    assert all(c.top_drop > c.random_drop for c in checked if c)  # a mutant that ranks at random fails here
    assert sum(c.random_as_strong for c in checked if c) < 0.5 * sum(c.num_random for c in checked if c)


def test_the_worst_are_those_in_which_the_right_answer_is_least_likely(world: Path, opened: Opened) -> None:
    """Eight cases are called wrong here, whatever they are. A mutant that takes any two, or the likeliest, fails."""
    run = world / "run"
    made = explain.material(opened.recipe, opened.session.base, explain.Ledger.load(run / "ledger.json"))
    rows = explain.pq.read_table(run / "scores" / "cases.parquet").to_pylist()
    answers = [Answer(**a) for a in json.loads((run / "scores" / "tuned.json").read_text())["answers"]]
    called = [{**row, "tuned_score": float(k >= 8)} for k, row in enumerate(rows)]
    logps = [dict(zip(made.labels, a.label_logps)) for a in answers]
    share = [np.exp(of[r["reference"]]) / sum(map(np.exp, of.values())) for of, r in zip(logps, rows)]
    least = sorted(range(8), key=lambda k: share[k])[:2]
    found = explained.worst(opened, made, called, answers, untold)
    assert [row["example_id"] for row in found] == [rows[k]["example_id"] for k in least]
    called[least[1]]["tuned_score"], called[least[0]]["tuned_score"] = 0.0, 0.5  # a higher score comes later
    assert explained.worst(opened, made, called, answers, untold)[0]["example_id"] == rows[least[1]]["example_id"]
    assert explained.worst(opened, made, [{**r, "tuned_score": 1.0} for r in rows], answers, untold) == []
    of_texts = explained.reference_losses(opened, made, rows[:8], untold)
    assert len(of_texts) == 8
    assert min(of_texts) > 0


def test_the_worst_cases_are_explained_by_the_run(world: Path) -> None:
    """The same records on the page and under --case."""
    run = world / "run"
    cases = explain.pq.read_table(run / "scores" / "cases.parquet").to_pylist()
    wrong = [c["example_id"] for c in cases if c["tuned_score"] == 0]
    assert wrong, "the tiny model makes no error: the test below would say nothing"
    kept = [json.loads(path.read_text()) for path in (run / "explained").glob("*.json")]
    assert len(kept) == min(2, len(wrong))
    assert {row["example_id"] for row in kept} <= set(wrong)
    assert all(row["num_compared"] >= explained.QUICK.num_drawn for row in kept)
    said = typed(["explain", str(run), "--case", kept[0]["example_id"], "--json"])
    assert json.loads(said.out) == kept[0]
    page = (run / "report.html").read_text()
    assert page.count('<details class="moved">') == len(kept)
    plan = json.loads((run / "plan.json").read_text())
    assert {"name": "explain", "budget_s": 20.0} in plan["stages"]
    assert "explain" in [stage["name"] for stage in json.loads((run / "cost.json").read_text())["stages"]]
    errors = json.loads((run / "understanding.json").read_text())["errors"]
    assert errors["num_tuned"] == sum(c["tuned_score"] == 0 for c in cases)
    named = {name for row in errors["kinds"] for name in row["example_ids"]}
    assert named == {c["example_id"] for c in cases if c["tuned_score"] == 0}
    text = typed(["explain", str(run)]).out
    assert "taken for" in text
    assert f"{errors['num_tuned']} of {len(cases)} cases fail" in text


def test_out_of_time_explains_less_and_says_what_was_compared(world: Path, opened: Opened) -> None:
    made = explain.material(opened.recipe, opened.session.base, explain.Ledger.load(world / "run" / "ledger.json"))
    cases = explain.pq.read_table(world / "run" / "scores" / "cases.parquet").to_pylist()[:2]

    def ends_at(text: str, after: int) -> list[explain.Explained]:
        left = after

        def progress(done: int, total: int, now: str) -> None:
            nonlocal left
            left -= text in now
            if left < 0:
                raise explain.OutOfTime

        return explain.explain_all(opened, made, cases, explained.QUICK, progress)

    assert ends_at("words", 0) == []
    assert [row.num_compared for row in ends_at("examples", 3)] == [3, 3]
    whole = ends_at("never", 0)
    assert [row.example_id for row in whole] == [c["example_id"] for c in cases]


def test_of_one_case_from_the_command_line(world: Path) -> None:
    [case, *_] = explain.pq.read_table(world / "run" / "scores" / "cases.parquet").to_pylist()
    done = typed(["explain", str(world / "run"), "--case", case["source"], "--examples", "8", "--json"])
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["example_id"] == case["example_id"]
    assert len(found["pulls"]) == found["num_compared"] == 8
    assert [p["cosine"] for p in found["pulls"]] == sorted((p["cosine"] for p in found["pulls"]), reverse=True)
    kept = world / "run" / "explained" / f"{case['example_id'][:12]}.json"
    assert json.loads(kept.read_text()) == found
    text = typed(["explain", str(world / "run"), "--case", case["example_id"][:16], "--examples", "4"]).out
    assert "Training examples that pulled the same way, of 4 compared" in text
    for words, said in (
        (["--case", "nothing:1"], "no held-out case 'nothing:1'"),
        (["--case", case["source"], "--examples", "1"], "wanted at least 2"),
    ):
        mistake = typed(["explain", str(world / "run"), *words])
        assert (mistake.code, said in mistake.text) == (2, True), mistake.text


@pytest.fixture(scope="module")
def dropping(world: Path) -> Opened:
    """A LoRA run with dropout, which must not be in a gradient that explains."""
    recipe = tiny_runs.settings(world / "model", world / "rows.jsonl", max_updates=2) | {"precision": "float32"}
    recipe["adapt"]["dropout"] = 0.5
    (world / "dropping.yaml").write_text(json.dumps(recipe))
    assert typed(["run", str(world / "dropping.yaml"), "--out", str(world / "dropping"), "--json"]).code == 0
    return open_run(world / "dropping")


@pytest.mark.parametrize("kind", ["opened", "dropping"])
def test_gradients_keep_their_laws(kind: str, request: pytest.FixtureRequest) -> None:
    """An example is most like itself; no pending gradient is left; a step along an example's gradient does to the
    case's loss what their product says (first order)."""
    opened: Opened = request.getfixturevalue(kind)
    prompt = opened.messages((Message("user", "brown fox order lazy"),))
    case = explain.answer_record(opened, "case", prompt, "fox")
    others = [
        explain.answer_record(opened, f"o{i}", opened.messages((Message("user", text),)), answer)
        for i, (text, answer) in enumerate((("quick fox sold", "fox"), ("quick dog sold", "dog"), ("May", "clips")))
    ]
    again = replace(case, example_id="again")
    [same, twin], *rest = explain.similarities(opened, [case, again], [again, *others])
    assert same == pytest.approx(twin, abs=1e-6)
    assert same == pytest.approx(1, abs=1e-5)
    assert all(abs(c) < 0.9999 for row in rest for c in row)
    tenant = opened.session.tenants[TUNED]
    assert tenant.pending == {}
    assert tenant.pending_ids == []

    wanted = gradients.gradient(opened.session, TUNED, case)
    pull = gradients.gradient(opened.session, TUNED, others[0])
    predicted = -sum(float((wanted[n] * pull[n]).sum()) for n in wanted)
    step = 1e-3 / gradients.norm(pull)
    before = {n: t.clone() for n, t in tenant.masters.items()}

    def loss() -> float:
        return -float(opened.session.logprobs(TUNED, [forest([case])])[0].double().sum())

    losses = []
    for sign in (1, -1):
        tenant.start_from({n: before[n] - sign * step * pull[n] for n in before})
        losses.append(loss())
    tenant.start_from(before)
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(predicted, rel=0.02)


def test_spans_of_long_and_odd_texts() -> None:
    for text in ("", "one", "  two words ", "a b\n\nc " * 100, "漢字だけ", " "):
        pieces = explain.split_spans(text, 48)
        assert "".join(pieces) == (text if text.strip() else "")
        assert len(pieces) <= 48


def test_half_of_the_candidates_are_near_and_half_are_not(opened: Opened, world: Path) -> None:
    made = explain.material(opened.recipe, opened.session.base, explain.Ledger.load(world / "run" / "ledger.json"))
    case, other = made.split.test[:2]
    effort = explain.Effort(num_near=5, num_drawn=10)
    chosen = explain.candidates(made, [case, other], effort, 0)
    assert len(chosen) == len(set(chosen))
    assert 15 <= len(chosen) <= 20
    assert chosen == explain.candidates(made, [case, other], effort, 0)
    assert set(chosen[:5]) == set(explain.candidates(made, [case], effort, 0)[:5])
    everything = explain.Effort(num_near=10**6)
    assert len(explain.candidates(made, [case], everything, 0)) == len(made.train.records)
    assert not torch.is_grad_enabled() or opened.session.tenants[TUNED].pending == {}
