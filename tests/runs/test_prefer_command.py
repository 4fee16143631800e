"""A model's own answers, compared by a judge over real HTTP or by a reward, become rows that a run learns from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.unit.evals.test_judge import Reply, asked_of, completion, first, longer, server

from tunesmith import both_orders, choosers, prefer, samplers
from tunesmith.data import ingest
from tunesmith.evals import endpoint
from tunesmith.evals.judge import Contest, Kept
from tunesmith.evals.stats import score_interval
from tunesmith.files import sha256_text
from tunesmith.opened import open_any
from tunesmith.types import Message, Pair

WORDS = ["yes", "yes, it is", "yes, it surely is", "no"]
NUM = 12
LENGTH = {"reward": [{"kind": "expression", "expression": "num_chars / 40", "name": "chars"}]}


def answers(body: dict[str, Any], headers: dict[str, str]) -> Reply:
    """Another answer by seed, as of a server that heeds it."""
    return completion(WORDS[body["seed"] % len(WORDS)])


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "NUM_TRIES", 1)
    (tmp_path / "rubric.txt").write_text("The longer one.\n")
    (tmp_path / "reward.yaml").write_text(json.dumps(LENGTH))
    return tiny_runs.written(tmp_path / "prompts.jsonl", [{"prompt": f"Is {i} a number?"} for i in range(NUM)])


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_pairs_of_a_judge_hold_where_they_are_from_and_a_run_learns_from_them(prompts: Path) -> None:
    with server(answers) as (url, asked), server(longer) as (judge, seen):
        words = f"prefer prompts.jsonl --model {url}#small --judge {judge}#big --rubric rubric.txt --seed 8"
        said = typed([*words.split(), "--out", "pairs.jsonl", "--json"])
        assert said.code == 0, said.text
    assert sorted(b["seed"] for b in asked) == sorted([8, 9, 10, 11] * NUM)
    assert {b["temperature"] for b in asked} == {1.0}
    assert len(seen) == 2 * 2 * NUM  # two comparisons of each prompt, in both orders
    assert {tuple(sorted((asked_of(b)["A"], asked_of(b)["B"]))) for b in seen} == {
        (WORDS[0], WORDS[1]),
        ("no", WORDS[2]),
    }
    rows = read("pairs.jsonl")
    assert [(r["chosen"], r["rejected"]) for r in rows] == [(WORDS[1], WORDS[0]), (WORDS[2], WORDS[3])] * NUM
    assert {r["rubric"] for r in rows} == {sha256_text("The longer one.")}
    assert [r["verdicts"] for r in rows] == [["second", "second"], ["first", "first"]] * NUM
    assert all(r["seed"] == 8 and "small" in r["sampled_by"] and "big" in r["preferred_by"] for r in rows)
    assert [r["answers"] for r in rows[::2]] == [f"prompts.jsonl:{k}" for k in range(1, NUM + 1)]
    facts = json.loads(said.out)
    assert (facts["num_rows"], facts["num_compared"], facts["left_out"]) == (24, 24, {})
    assert facts["chosen_words"] == pytest.approx((3 + 4) / 2)
    assert facts["chosen_longer_frac"] == 1
    assert facts["notes"] == ["nearly always the longer answer was chosen: look whether length is what you want."]
    assert facts["chooser"]["contradicted_frac"] == 0
    assert not Path("pairs.jsonl.partial").exists()
    found = ingest.read([Path("pairs.jsonl")])
    assert (len(found.examples), found.rejected) == (24, ())
    assert all(isinstance(e.target, Pair) for e in found.examples)
    model = tiny_runs.model_folder(Path("model"))
    verdict = tiny_runs.started(tiny_runs.settings(model, Path("pairs.jsonl"), max_updates=2), Path("run"))
    assert verdict["task"] == "preferences"


def test_a_model_that_transformers_samples_from(prompts: Path) -> None:
    """Of another layout than the engine's own sampler knows."""
    tiny_runs.model_folder(Path("falcon"), "falcon")

    words = "prefer prompts.jsonl --model falcon --n 12 --max-tokens 100 --reward reward.yaml --out falcon.jsonl --json"
    said = typed(words.split())
    assert said.code == 0, said.text
    facts = json.loads(said.out)
    rows = read("falcon.jsonl")
    assert facts["num_rows"] == len(rows) > 3
    assert all({"sampled_by": "falcon"}.items() <= row.items() and row["chosen"] != row["rejected"] for row in rows)
    assert len({row["chosen"] for row in rows}) > 3


def test_a_judge_that_looks_at_the_place_alone_gives_no_pair(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another judge goes on with the same answers. The mutant asks one order, and believes it."""
    with server(answers) as (url, asked), server(first) as (judge, _), server(longer) as (better, _):
        words = f"prefer prompts.jsonl --model {url}#small --judge {judge}#big --out pairs.jsonl".split()
        said = typed(words)
        assert said.code == 2
        assert f"{2 * NUM} x the judge contradicts itself" in said.text
        assert not Path("pairs.jsonl").exists()
        left = read("pairs.jsonl.left_out.jsonl")
        assert {tuple(r["verdicts"]) for r in left} == {("first", "second")}
        assert left[0]["answers"] == "prompts.jsonl:1"
        assert left[0]["judge_said"] == ['{"better": "A"}'] * 2
        assert "add --resume" in typed(words).text
        with monkeypatch.context() as patch:
            patch.setattr(choosers, "doubt", lambda vote: "")
            mutant = typed([*words[:-1], "mutant.jsonl", "--json"])
        assert json.loads(mutant.out)["num_rows"] == 2 * NUM
        num = len(asked)
        words[5] = f"{better}#other"
        again = typed([*words, "--resume", "--json"])
        assert len(asked) == num  # no answer is sampled again
    assert json.loads(again.out)["num_rows"] == 2 * NUM
    assert read("pairs.jsonl.left_out.jsonl") == []
    Path("pairs.jsonl").rename("moved.jsonl")
    assert "pairs.jsonl.prefer.json says where rows came from" in typed(words).text


def test_a_sampling_that_was_refused_goes_on(prompts: Path) -> None:
    """Each answer is paid for once; the file is that of a sampling that never stopped."""
    credit, given = [NUM], list[tuple[str, int]]()

    def sold(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        credit[0] -= 1
        if credit[0] < 0:
            return 401, {}, "no credit left"
        given.append((body["messages"][-1]["content"], body["seed"]))
        return answers(body, headers)

    with server(sold) as (url, _):
        words = f"prefer prompts.jsonl --model {url}#small --reward reward.yaml --out pairs.jsonl".split()
        assert "no credit left" in typed(words).text
        credit[0] = 10**6
        assert typed([*words, "--resume"]).code == 0
        whole = f"prefer prompts.jsonl --model {url}#small --reward reward.yaml --out whole.jsonl".split()
        assert len(given) == len(set(given)) == 4 * NUM
        assert typed(whole).code == 0
    assert Path("whole.jsonl").read_text() == Path("pairs.jsonl").read_text()


def test_a_reward_pairs_the_best_with_the_worst(prompts: Path) -> None:
    """Rewards that are all alike give none, and are counted; with --best the best answer alone is written."""

    def some(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        is_flat = " 3 " in body["messages"][-1]["content"]
        return completion(["one", "two", "six", "ten"][body["seed"]]) if is_flat else answers(body, headers)

    with server(some) as (url, _):
        words = f"prefer prompts.jsonl --model {url}#small --reward reward.yaml --json --out".split()
        facts = json.loads(typed([*words, "pairs.jsonl"]).out)
        best = json.loads(typed([*words, "best.jsonl", "--best"]).out)
        good = json.loads(typed([*words, "good.jsonl", "--best", "--least", "0.2"]).out)
        refused = typed([*words, "x.jsonl", "--least", "0.2"])
    assert (facts["num_rows"], facts["left_out"]) == (NUM - 1, {"all rewards are alike": 1})
    for row in read("pairs.jsonl"):
        assert (row["chosen"], row["rejected"]) == (WORDS[2], WORDS[3])
        assert row["rewards"] == [len(WORDS[2]) / 40, len(WORDS[3]) / 40]
    assert (best["num_rows"], good["num_rows"]) == (NUM, NUM - 1)
    assert good["left_out"] == {"the best reward is not enough": 1}
    assert "--least" in refused.text
    for name, num in (("best.jsonl", NUM), ("good.jsonl", NUM - 1)):
        found = ingest.read([Path(name)])
        texts = [e.target.text for e in found.examples]  # type: ignore[union-attr]
        assert texts.count(WORDS[2]) == NUM - 1
        assert len(texts) == num


def test_agreement_with_people_is_that_of_pairs_in_which_the_judge_is_sure(prompts: Path) -> None:
    """The judge likes what is longer; people did in 8 of 10 pairs, and one pair is as long as the other."""
    sides = [("the longer one", "short")] * 8 + [("brief", "a much longer one")] * 2 + [("abc", "xyz")]
    rows = [{"prompt": f"What of {i}?", "chosen": c, "rejected": r} for i, (c, r) in enumerate(sides)]
    tiny_runs.written(Path("people.jsonl"), rows)
    wilson = score_interval(0.8, np.array([0.02] * 8 + [-0.08] * 2), (0.0, 1.0), is_binary=True)
    with server(answers) as (url, _), server(longer) as (judge, _):
        for flags in (["--judge", f"{judge}#big"], ["--reward", "reward.yaml"]):
            out = f"{flags[0][2:]}.jsonl"
            said = typed(["prefer", "people.jsonl", "--model", f"{url}#small", *flags, "--out", out])
            assert said.code == 0, said.text
            facts = json.loads(Path(f"{out}.prefer.json").read_text())["people"]
            assert (facts["num_pairs"], facts["num_concluded"], facts["agreement"]) == (11, 10, 0.8)
            assert facts["interval"] == pytest.approx(list(wilson))
            assert "agrees with people in 80% of 10 of their pairs" in said.text


def test_length_is_spoken_of_where_it_would_choose_the_same() -> None:
    told = lambda share, num=10: bool(prefer.by_length({"chosen_longer_frac": share}, num))
    assert [told(0.8), told(0.2), told(0.79), told(0.21), told(1.0, 9)] == [True, True, False, False, False]
    assert prefer.by_length({}, 50) == []  # no pairs


def test_answers_that_nobody_should_learn_from_are_left_out(prompts: Path) -> None:
    def odd(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        if body["seed"] == 0:
            return completion(" ")
        if body["seed"] == 1:
            cut = {"message": {"content": "a very long one that"}, "finish_reason": "length"}
            return 200, {}, json.dumps({"choices": [cut]})
        return completion("same " if "Is 0" in body["messages"][-1]["content"] else f"{body['seed']} " * 3)

    with server(odd) as (url, _), server(longer) as (judge, _):
        words = f"prefer prompts.jsonl --model {url}#small --judge {judge}#big --cases 5 --n 5 --out pairs.jsonl --json"
        said = typed(words.split())
    left = (
        [r["reason"] for r in read("pairs.jsonl.left_out.jsonl")] if Path("pairs.jsonl.left_out.jsonl").exists() else []
    )
    assert left.count("the answer is empty") == left.count("the answer is cut off at the limit") == 5, said.text


def test_what_is_said_wrongly_is_refused(prompts: Path) -> None:
    for flags, wanted in {
        "": "either --judge",
        "--judge m --reward reward.yaml": "either --judge",
        "--reward reward.yaml --rubric r.txt --judge-key-env K": "--rubric, --judge-key-env is not read with --reward",
        "--judge m --least 1": "--least is not read with --judge",
        "--reward reward.yaml --n 1": "--n is 1; wanted 2 or more",
        "--reward reward.yaml --temperature 0": "all answers to a prompt would be the same",
        "--reward reward.yaml --out pairs.csv": "ends with .jsonl",
    }.items():
        words = ["prefer", "prompts.jsonl", "--model", "http://127.0.0.1:9/v1#m"]
        out = [] if "--out" in flags else ["--out", "pairs.jsonl"]
        said = typed([*words, *out, *flags.split()])
        assert said.code == 2, said.text
        assert wanted in " ".join(said.text.split()), said.text
    words[3] = "https://example.org/v1#m"
    assert "--yes-send" in typed([*words, "--reward", "reward.yaml", "--out", "pairs.jsonl"]).text


def test_what_leaves_this_machine_is_said_before_it_does(prompts: Path) -> None:
    judge = both_orders.judge_of("https://example.org/v1#big", None, may_send=True)
    [said] = choosers.ByJudge(judge, "kind").sends([])
    assert said.startswith("WARNING: all prompts, their answers")
    assert "example.org" in said
    who = samplers.sampler("https://example.org/v1#small", None, may_send=True)
    assert who.sends(3) == ["WARNING: 3 prompts are sent to example.org"]
    assert samplers.sampler("http://127.0.0.1:9/v1#small", None, may_send=False).sends(3) == []


# -- on this machine ------------------------------------------------------------------------------------------------

PROMPTS = [(Message("user", f"the quick dog {i}"),) for i in range(20)]
DRAW = samplers.Draw(num=3, max_new_tokens=6, seed=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_runs.model_world(tmp_path_factory) / "model")


def drawn(model: str, kept: Path, draw: samplers.Draw = DRAW) -> samplers.Sampled:
    return samplers.Here(model).sample(PROMPTS, draw, kept, lambda done, of: None, lambda: None)


def test_one_seed_gives_the_same_answers_and_a_resume_too(model: str, tmp_path: Path) -> None:
    whole = drawn(model, tmp_path / "a")
    assert [len(a) for a in whole.answers] == [3] * 20
    texts = [s.text for a in whole.answers for s in a]  # type: ignore[union-attr]
    assert len(set(texts)) > 50
    kept = tmp_path / "a" / "answers.jsonl"
    lines = kept.read_text().splitlines()
    assert len(lines) == 1 + 2  # a batch has 48 rows
    kept.write_text(lines[0] + "\n" + lines[1][:20])  # cut off in the middle of a batch
    assert drawn(model, tmp_path / "a") == whole
    assert drawn(model, tmp_path / "b") == whole
    other = drawn(model, tmp_path / "b", replace(DRAW, seed=5))
    assert other.answers != whole.answers


def test_a_judge_on_this_machine_says_the_likelier_letter(model: str, tmp_path: Path) -> None:
    contests = [Contest(str(i), "the dog", f"fox {i}", "clips lazy") for i in range(4)]
    kept = Kept(tmp_path / "judge.jsonl")
    told = lambda *_: None
    votes = both_orders.judged(contests, both_orders.Here(model), "Be kind.", kept, told, told).votes
    opened = open_any(model)
    for contest, vote in zip(contests, votes):
        for turned, found in ((False, vote.base_first), (True, vote.tuned_first)):
            text = both_orders.question(contest, tuned_first=turned)
            turns = (Message("system", both_orders.LETTER.format(rubric="Be kind.")), Message("user", text))
            sums = []
            for letter in "AB":
                ids, reply = opened.renderer.prompt(turns), opened.renderer.choice(turns, letter)
                with torch.no_grad():
                    logits = opened.session.base.model(torch.tensor([[*ids, *reply]])).logits[0].log_softmax(-1)
                sums.append(sum(float(logits[len(ids) - 1 + k, t]) for k, t in enumerate(reply)))
            assert found == float((sums[1] > sums[0]) != turned)
