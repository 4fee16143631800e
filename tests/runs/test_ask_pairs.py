"""`tunesmith ask --pairs`: sheet and page are blind, and what people chose comes back with how far they agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import Said, typed
from tests.unit.evals.test_judge import Reply, completion, server

from tunesmith import blind, pair_sheet
from tunesmith.data import ingest
from tunesmith.data.rows import rows
from tunesmith.data.write import write_rows
from tunesmith.evals import endpoint
from tunesmith.prefer import Group
from tunesmith.types import Example, Message, Pair, Task

NUM = 20
Choose = Callable[[str, str], str]  # of both answers


def answers(body: dict[str, Any], headers: dict[str, str]) -> Reply:
    """Longer with a higher seed; the model "brief" says one word."""
    return completion("No." if body["model"] == "brief" else "yes, it is" + " indeed" * (body["seed"] % 2))


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "NUM_TRIES", 1)
    return tiny_runs.written(tmp_path / "prompts.jsonl", [{"prompt": f"Is {i} a number?"} for i in range(NUM)])


def filled(sheet: str, out: str, choose: Choose) -> None:
    lines = [dict(row, choice=choose(str(row["A"]), str(row["B"]))) for _, row in rows(Path(sheet))]  # type: ignore[misc]
    write_rows(Path(out), lines, {name: {str} for name in blind.COLUMNS})


def read_back(*sheets: str) -> Said:
    words = [word for sheet in sheets for word in ("--read", sheet)]
    return typed(["ask", "--pairs", *words, "--key", "s.key.json", "--out", "pairs.jsonl", "--json"])


def longer(a: str, b: str) -> str:
    return "A" if len(a) > len(b) else "b"


def test_what_people_chose_becomes_rows_that_hold_who_said_so(prompts: Path) -> None:
    with server(answers) as (url, asked):
        said = typed(f"ask prompts.jsonl --pairs --model {url}#small --sheet s.csv --twice 0.5 --json".split())
    assert said.code == 0, said.text
    facts = json.loads(said.out)
    assert (facts["num_pairs"], facts["num_twice"]) == (NUM, NUM // 2)
    assert sorted(body["seed"] for body in asked) == sorted([0, 1] * NUM)
    lines = [row for _, row in rows(Path("s.csv"))]  # type: ignore[misc]
    assert len(lines) == NUM + NUM // 2
    for shown in ("s.csv", "s.html"):
        assert "small at" not in Path(shown).read_text(encoding="utf-8")  # whose it is
    assert 3 < sum(longer(str(row["A"]), str(row["B"])) == "A" for row in lines) < 27
    filled("s.csv", "one.csv", longer)
    filled("s.csv", "two.csv", lambda a, b: "tie" if len(a) % 2 else longer(a, b))
    back = read_back("one.csv", "two.csv")
    assert back.code == 0, back.text
    found = json.loads(back.out)
    made = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert {(r["chosen"], r["rejected"]) for r in made} == {("yes, it is indeed", "yes, it is")}
    assert sorted(r["answers"] for r in made) == sorted(f"prompts.jsonl:{k}" for k in range(1, NUM + 1))
    assert {r["preferred_by"] for r in made} == {"2 people"}
    assert (found["num_rows"], found["num_shared"]) == (NUM, NUM)
    assert "preferred" not in found  # one model gave both
    examples = ingest.read([Path("pairs.jsonl")]).examples
    assert all(isinstance(e.target, Pair) for e in examples)
    assert (
        typed(["ask", "--read", "one.csv", "--key", "s.key.json", "--out", "r.jsonl"]).code == 2
    )  # rows were not asked


def test_two_models_and_empty_choices(prompts: Path) -> None:
    with server(answers) as (url, _):
        words = f"ask prompts.jsonl --pairs --model {url}#small --against {url}#brief --sheet s.csv --twice 0 --json"
        assert typed(words.split()).code == 0
    count = iter(range(100))
    filled("s.csv", "one.csv", lambda a, b: longer(a, b) if next(count) < 6 else "")
    back = read_back("one.csv")
    found = json.loads(back.out)
    assert list(found["preferred"].values()) == [6]
    assert "small" in next(iter(found["preferred"]))
    assert found["left_out"] == {"nobody chose": NUM - 6}
    assert len(Path("pairs.jsonl.left_out.jsonl").read_text().splitlines()) == NUM - 6
    refused = typed(f"ask prompts.jsonl --pairs --model {url}#small --by both --sheet t.csv".split())
    assert "--by is not read with --pairs" in refused.text
    for words, said in (
        ("--read one.csv --key s.key.json --out x.jsonl --pairs --num 3", "--num is not read with --read"),
        ("prompts.jsonl --read one.csv --key s.key.json --out x.jsonl", "prompts.jsonl is not read with --read"),
        (
            f"prompts.jsonl --model {url}#small --sheet t.csv --seed 0 --yes-send",
            "--seed, --yes-send is not read without",
        ),
        (f"prompts.jsonl --model {url}#small --sheet t.csv --out x.jsonl", "--out is not read with --sheet"),
    ):
        refused = typed(["ask", *words.split()])
        assert refused.code == 2
        assert said in refused.text


def groups(num: int) -> list[Group]:
    turns = [(Message("user", f"Is {i} a number?"),) for i in range(num)]
    examples = [Example(str(i), t, Task({}), source=f"p:{i}") for i, t in enumerate(turns)]
    return [Group(e, t, (f"yes {e.id}", f"no {e.id}")) for e, t in zip(examples, turns)]


def said_again(key: blind.Key, choose: Choose) -> dict[str, Any]:
    votes = {}
    for line, one in zip(key.lines(), key.placed):
        is_a = choose(line["A"], line["B"]) == "A"
        votes[one.case] = float(one.a if is_a else 1 - one.a)
    return pair_sheet.again([votes], key)


def place(name: str = "") -> blind.Key:
    return pair_sheet.placed(groups(40), ("one", "two"), 0.5, Random(3))


def test_who_follows_the_side_contradicts_himself_and_who_reads_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    key = place()
    assert said_again(key, lambda a, b: "A") == {
        "num_twice": 20,
        "same_again": 0.0,
        "kappa_again": pytest.approx(-1, abs=0.2),
    }
    assert said_again(key, lambda a, b: "A" if "yes" in a else "B")["same_again"] == 1.0
    firsts: dict[str, int] = {}
    for at, one in enumerate(key.placed):
        if (first := firsts.setdefault(one.contest.example_id, at)) != at:
            assert at - first >= 20  # the person has seen many others between
            assert key.placed[first].a == 1 - one.a
    mutant = blind.Key(key.models, tuple(blind.Placed(p.case, 0, p.contest) for p in key.placed), ())
    assert said_again(mutant, lambda a, b: "A")["same_again"] == 1.0  # sides that stay hide it


def test_who_contradicts_himself_on_a_pair_has_not_chosen() -> None:
    key = place()
    twice = next(p for p in key.placed if sum(q.contest is p.contest for q in key.placed) == 2)
    a, b = (p.case for p in key.placed if p.contest is twice.contest)
    assert pair_sheet.folded({a: 1.0, b: 0.0}, key) == {twice.contest.example_id: 0.5}
    assert pair_sheet.folded({a: 1.0, b: 0.5}, key) == {twice.contest.example_id: 1.0}
    assert pair_sheet.folded({a: 0.0}, key) == {twice.contest.example_id: 0.0}
