"""`tunesmith synthesise` over real HTTP: what each kind asks and keeps, what is left out and why,
that no row is like a held-out one, and that a run shows what they bring."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.unit.evals.test_judge import Reply, completion, server

from tunesmith import build, novel
from tunesmith.data import ingest, synthetic
from tunesmith.evals import endpoint
from tunesmith.recipe import parse
from tunesmith.synthetic_kinds import KINDS

HELD_OUT = "how many nuts are left under the tall old tree"
FRUITS = ["apple", "pear", "plum", "fig", "cherry", "grape", "melon", "peach", "lemon", "lime", "quince", "kiwi"]


def asked(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "NUM_TRIES", 1)
    rows = [
        {"question": f"how many {fruit} are {k} and {k} {fruit} in my basket", "answer": str(2 * k)}
        for k, fruit in enumerate(FRUITS)
    ]
    tiny_runs.written(tmp_path / "rows.jsonl", rows)
    tiny_runs.written(tmp_path / "held.jsonl", [{"question": HELD_OUT, "answer": "3"}])
    return tmp_path


def words(url: str, kind: str, *more: str) -> list[str]:
    base = ["synthesise", "rows.jsonl", "--kind", kind, "--model", f"{url}#big", "--held-out", "held.jsonl", "--json"]
    return [*base, "--out", "made.jsonl", *more]


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def sentence(*of: object) -> str:
    """Nine words, others for other things."""
    draw = Random(repr(of))
    return " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(9))


def writer(body: dict[str, Any], headers: dict[str, str]) -> Reply:
    """Of each kind something good, and of some seeds something that has to be left out."""
    text = asked(body)
    if "Write one more of the same kind" in text:
        shown = re.findall(r"how many (\w+)", text)
        bad = {
            "fig": "I'm sorry, but as an AI model I cannot do that.", "plum": "how many {fruit} do I have here",
            "pear": HELD_OUT, "lime": text.split("1. ")[1].split("\n")[0],
        }  # fmt: skip
        return completion(bad.get(shown[0], f"1. which {sentence(text, body['seed'])}"))
    if "in other words" in text:
        return completion(f"tell {sentence(text, body['seed'])}")
    if "into French" in text:
        return completion("combien de " + text.split("how many ")[1].split()[0])
    if "into English" in text:
        return completion(f"what {sentence(text, body['seed'])}")
    if "step by step" in text:
        k = int(text.split(" are ")[1].split()[0])
        return completion(f"{k} and {k} are together\n#### {2 * k if k % 2 else 2 * k + 1}")
    return completion("an answer")


def test_expansion_keeps_what_is_new_and_says_why_the_rest_is_not(place: Path) -> None:
    with server(writer) as (url, seen):
        said = typed(words(url, "expand", "--num", "8"))
    assert said.code == 0, said.text
    made, facts = read("made.jsonl"), json.loads(said.out)
    assert len(made) == facts["num_rows"] == 8
    assert facts["num_requests"] == len(seen)
    assert all(r["question"].startswith("which ") and r["answer"] == "an answer" for r in made)
    assert {(r["synthetic"], r["seed"]) for r in made} == {("expand", 0)}
    assert all("big" in r["made_by"] and len(r["made_from"]) == 3 for r in made)
    assert set(facts["left_out"]) <= {novel.REFUSED, novel.LEFT, novel.HELD_OUT, novel.ALIKE}
    assert not Path("made.jsonl.partial").exists()
    texts = [r["question"] for r in made]
    assert all(novel.rouge_l(novel.words(a), novel.words(b)) <= 0.7 for a in texts for b in texts if a != b)
    with server(writer) as (url, _):
        assert typed(words(url, "expand")).code == 2  # made.jsonl is there
        assert "--through is not read with --kind expand" in typed(words(url, "expand", "--through", "Dutch")).text
    found = ingest.read([Path("rows.jsonl"), Path("made.jsonl")])  # in the columns of the seeds
    assert sum(e.is_synthetic for e in found.examples) == 8
    assert len(found.examples) == 8 + len(FRUITS)


def test_the_other_kinds(place: Path) -> None:
    for kind, check in {
        "paraphrase": lambda r: r["question"].startswith("tell "),
        "back-translation": lambda r: r["question"].startswith("what "),
        "rationale": lambda r: r["question"].startswith("how many") and "####" in r["answer"],
    }.items():
        with server(writer) as (url, _):
            said = typed(words(url, kind, "--num", "6"))
        assert said.code == 0, said.text
        made = read("made.jsonl")
        assert len(made) == 6
        assert all(check(r) for r in made)
        answers = {row["question"]: row["answer"] for row in read("rows.jsonl")}
        if kind == "rationale":  # only what comes to the known answer
            assert all(r["answer"].endswith(f"#### {answers[r['question']]}") for r in made)
            assert json.loads(said.out)["left_out"]["does not come to the known answer"] > 0
        else:
            by_source = {f"rows.jsonl:{k}": row["answer"] for k, row in enumerate(read("rows.jsonl"), 1)}
            assert all(r["answer"] == by_source[r["made_from"][0]] for r in made)
        for path in place.glob("made.jsonl*"):
            path.unlink()


def test_questions_are_about_the_document(place: Path) -> None:
    Path("manual.md").write_text(
        "The kettle boils water within 3 minutes.\n\n" * 3 + "\n\nThe lamp uses two batteries."
    )

    seen: list[tuple[str, int]] = []

    def about(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        seen.append((asked(body), body["seed"]))
        num = len(asked(body)) + body["seed"]
        sure = "The kettle boils water within minutes" if num % 2 else "Elephants wander through Africa slowly"
        sure = sure if num % 4 != 1 else "The kettle boils water within 30 minutes"
        more = "Question: And why?\nAnswer: Nobody knows."  # which nobody asked for
        topic = 4 * chr(ord("a") + num % 26)
        return completion(f"Question: What about {topic} is said of kettles?\nAnswer: {sure}.\n\n{more}")

    with server(about) as (url, _):
        more = ["--num", "2", "--held-out", "held.jsonl", "--out", "made.jsonl", "--json"]
        said = typed(["synthesise", "manual.md", "--kind", "questions", "--model", f"{url}#big", *more])
    assert said.code == 0, said.text
    made = read("made.jsonl")
    assert {r["completion"] for r in made} == {"The kettle boils water within minutes."}
    assert all(r["made_from"][0].startswith("manual.md:1#") for r in made)
    assert {"its answer is not in the text", "it has a number that is not in the text"} <= set(
        json.loads(said.out)["left_out"]
    )
    assert len(seen) == len(set(seen)) > 4  # mutant: one passage is asked with one seed, and gives one answer


def test_a_budget_is_kept_and_a_stopped_command_asks_nothing_twice(place: Path) -> None:
    num = 0

    def failing(body: dict[str, Any], headers: dict[str, str]) -> Reply:
        nonlocal num
        num += 1
        return (400, {}, "no more") if num > 4 else writer(body, headers)

    with server(failing) as (url, _):
        assert typed(words(url, "paraphrase", "--num", "8", "--requests", "9")).code == 2
        num = -1000
        again = typed(words(url, "paraphrase", "--num", "8", "--requests", "9", "--resume"))
    assert again.code == 0, again.text
    facts = json.loads(again.out)
    assert facts["num_requests"] <= 9
    assert num + 1000 <= 9 - 4 + 1  # those that were answered before are not asked again
    with server(writer) as (url, seen):
        said = typed([*words(url, "paraphrase", "--num", "50", "--tokens", "1024"), "--out", "two.jsonl"])
    assert len(seen) <= 4  # of at most 256 tokens each
    assert "the budget was used up" in " ".join(json.loads(said.out)["notes"])


def test_no_row_is_like_a_held_out_one() -> None:
    """Law: also with other digits and two words changed. The mutant does not mask digits, and lets a twin in."""
    held = ["order 1234 from shop 56 has not come yet, where is it now"]
    twins = [
        "Order 99 from shop 7 has not come yet, where is it now",
        "order 1 from the shop has not come yet where is it now",
    ]
    for text in twins:
        assert novel.Novel(["a b c d e f g h"], held, 0.7).refused(text, "x y") == novel.HELD_OUT
    far = "please send me the bill of the last three months again"
    assert novel.Novel(["a b c d e f g h"], held, 0.7).refused(far, "x y") == ""
    assert not novel.Pool(held).holds(twins[0], novel.ROUGE_L) or novel.Pool(held).holds(
        novel.masked(twins[0]), novel.ROUGE_L
    )


def test_rouge_l_by_hand_and_its_bound() -> None:
    assert novel.rouge_l(list("abcd"), list("acde")) == pytest.approx(0.75)
    assert novel.Pool(["a b c d"]).holds("d c b a", 0.7) is False  # all words, in another order
    assert novel.Pool(["a b c d"]).holds("A b  c D", 1.0) is True  # equal but for case and space


def test_kinds_and_what_reading_knows_of_them_are_the_same() -> None:
    assert tuple(KINDS) == synthetic.MADE_BY


def test_made_up_rows_are_learned_from_and_never_asked(place: Path) -> None:
    """Law: the real rows stand where they stood without them, and none that is learned is like a case. The mutant
    forgets that they are made up."""
    real = [json.loads(line) for line in tiny_runs.labelled_file(Path("real.jsonl")).read_text().splitlines()]
    made = [
        {"text": f"{r['text']} {k} more", "label": r["label"], "synthetic": "paraphrase"}
        for k, r in enumerate(real[:40])
    ]
    same = [{**row, "synthetic": "rationale"} for row in real[:9]]
    tiny_runs.written(Path("all.jsonl"), [*real, *made, *same])
    alone = tiny_runs.settings(Path("model"), Path("real.jsonl"))
    both = tiny_runs.settings(Path("model"), Path("all.jsonl"))
    without = tiny_runs.changed(both, {"data": {"synthetic": False}})
    one, two, three = (build.read_split(parse(said), None)[1] for said in (alone, both, without))
    for name in ("dev", "test"):
        assert (
            [e.id for e in getattr(one, name)]
            == [e.id for e in getattr(two, name)]
            == [e.id for e in getattr(three, name)]
        )
    assert [e.id for e in three.train] == [e.id for e in one.train]
    num = sum(e.is_synthetic for e in two.train)
    assert num > 15
    held_out = {e.prompt[-1].content for e in (*one.dev, *one.test)}
    sources = {e.prompt[-1].content.rsplit(" ", 2)[0] for e in two.train if e.is_synthetic}
    sources |= {e.prompt[-1].content for e in two.train if e.is_synthetic}
    assert not sources & held_out  # none that is nearly a case
    assert len(two.train) == len(one.train) + num
    mutant = [{k: v for k, v in r.items() if k != "synthetic"} for r in [*real, *made]]
    tiny_runs.written(Path("all.jsonl"), mutant)
    assert len(build.read_split(parse(both), None)[1].test) > len(one.test)


def test_a_report_shows_the_verdict_with_and_without_them(place: Path) -> None:
    tiny_runs.model_folder(Path("model"))
    rows = [json.loads(line) for line in tiny_runs.labelled_file(Path("real.jsonl")).read_text().splitlines()]
    made = [{"text": f"{r['text']} more", "label": r["label"], "synthetic": "paraphrase"} for r in rows[:40]]
    tiny_runs.written(Path("all.jsonl"), [*rows, *made])
    said = tiny_runs.settings(Path("model"), Path("all.jsonl"), max_updates=1) | {"export": ["adapter"]}
    tiny_runs.started(said, Path("runs/with"))
    assert (
        "%) were written by a model; no case is. What they bring shows the same recipe with --set"
        in Path("runs/with/report.md").read_text()
    )
    shutil.copytree("runs/with", "runs/without")
    without = tiny_runs.changed(said, {"data": {"synthetic": False}})
    Path("runs/without/recipe.yaml").write_text(yaml.safe_dump(without))
    for name in ("with", "without"):
        assert typed(["report", f"runs/{name}"]).code == 0
        for text in (Path(f"runs/{name}/{file}").read_text() for file in ("report.md", "report.html")):
            assert "all rows" in text
            assert "without synthetic rows" in text
            assert "minus without them, paired over the" in text
    Path("runs/without/recipe.yaml").write_text(yaml.safe_dump(tiny_runs.changed(without, {"train": {"epochs": 3}})))
    assert typed(["report", "runs/with"]).code == 0
    assert "without synthetic rows" not in Path("runs/with/report.md").read_text()  # another recipe is no comparison
