"""Whole tiny runs on replies marked good or bad, and on ranked lists: judged by what became likelier, against a
reference that no resume moves.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.runs.test_preference_runs import Stops, nats, read, rows_of

from tunesmith import reference
from tunesmith.errors import InputError, Interrupted, RunError
from tunesmith.folder import Silent
from tunesmith.verified import verify


def marked_file(path: Path, num: int = 80) -> Path:
    """Good replies repeat a word of the question, bad ones name another; two of three are bad."""
    rng, rows = random.Random(4), []
    for i in range(num):
        word, other = rng.sample(tiny_runs.WORDS, 2)
        good = i % 3 == 0
        rows.append(
            {"prompt": f"{word} {i}: what is it?", "completion": f"the {word if good else other}", "label": good}
        )
    return tiny_runs.written(path, rows)


def listed_file(path: Path, num: int = 40) -> Path:
    rng, rows = random.Random(4), []
    for i in range(num):
        best, worse, worst = rng.sample(tiny_runs.WORDS, 3)
        tried = [(f"the {worse}", 0.5), (f"the {best}", 0.9), (f"no {worst}, {worst}", 0.1)]
        completions = [{"text": text, "score": score} for text, score in tried]
        rows.append({"prompt": f"{best} {i}: what is it?", "completions": completions})
    return tiny_runs.written(path, rows)


def start(
    folder: Path,
    name: str,
    rows: str = "marked.jsonl",
    tell: Silent | None = None,
    *,
    resume: bool = False,
    **more: Any,
) -> dict[str, Any]:
    said = tiny_runs.settings(folder / "model", folder / rows, max_updates=4, update_tokens=512)
    said["train"] |= {"every_checkpoint": 2, "lr": 3e-3}
    return tiny_runs.started(tiny_runs.changed(said, more), folder / name, tell, resume=resume)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    marked_file(folder / "marked.jsonl")
    listed_file(folder / "lists.jsonl")
    start(folder, "run", train={"rehearsal": True}, objective={"kto": {"desirable": 2.0}})
    start(folder, "lists", "lists.jsonl")
    return folder


def test_the_verdict_is_how_much_likelier_marked_replies_became(world: Path) -> None:
    out = world / "run"
    verdict, rows = read(out / "verdict.json"), pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert (verdict["task"], verdict["metric"], verdict["base"]) == ("feedback", "feedback_accuracy", 0.5)
    sides: dict[str, list[float]] = {"good": [], "bad": []}
    for row in rows:
        gain, good = row["tuned_measured"]
        assert row["mark"] == ("good" if good else "bad")
        sides[row["mark"]].append(gain)
    for row in rows[:3]:
        now, before = (nats(folder, row["prompt"], row["reference"]) for folder in (out / "merged", world / "model"))
        assert row["tuned_measured"][0] == pytest.approx(now - before, abs=1e-3)
    shares = [
        sum(g > 0 for g in sides["good"]) / len(sides["good"]),
        sum(g < 0 for g in sides["bad"]) / len(sides["bad"]),
    ]
    assert verdict["tuned"] == pytest.approx(sum(shares) / 2)
    mean = {mark: sum(gains) / len(gains) for mark, gains in sides.items()}
    assert verdict["secondary"]["feedback_margin"]["tuned"] == pytest.approx((mean["good"] - mean["bad"]) / 2)
    assert any("held-out replies marked good became likelier" in note for note in verdict["notes"])
    page = (out / "report.html").read_text()
    assert "Reply, marked bad" in page
    assert "tunesmith explain RUN" not in page
    assert [(c.name, c.found) for c in verify(out) if c.passed is False] == []


def test_it_begins_at_a_half_and_learns(world: Path) -> None:
    """1 - sigmoid(0) of each reply, those marked good counting twice."""
    learned = [row for row in rows_of(world / "run") if "loss" in row]
    dev = [row["dev_loss"] for row in rows_of(world / "run") if "dev_loss" in row]
    plan = {row["key"]: row for row in read(world / "run" / "plan.json")["resolved"]}
    assert 0.5 < learned[0]["loss"] < 1
    assert 0.5 <= dev[0] <= 1
    assert learned[-1]["good_change_nats"] > learned[-1]["bad_change_nats"]
    assert "replies are marked good and" in plan["objective.kto"]["why"]
    assert plan["scoring"]["value"] == "marks"
    kept = read(world / "run" / "reference.json")["nats"]
    assert {len(pair) for pair in kept.values()} == {2}


@pytest.mark.parametrize(("name", "rows"), [("run", "marked.jsonl"), ("lists", "lists.jsonl")])
def test_a_resume_never_moves_the_reference(world: Path, name: str, rows: str) -> None:
    more = {"objective": {"kto": {"desirable": 2.0}}} if name == "run" else {}
    with pytest.raises(Interrupted):
        start(world, f"stopped {name}", rows, Stops(), **more)
    path = world / f"stopped {name}" / reference.NAME
    before = path.read_text()
    other = json.loads(before)
    other["nats"][next(iter(other["nats"]))][0] += 0.5
    path.write_text(json.dumps(other))
    with pytest.raises(RunError, match=r"reference\.json is not what this run computed"):
        start(world, f"stopped {name}", rows, resume=True, **more)
    path.write_text(before)
    again = start(world, f"stopped {name}", rows, resume=True, **more)
    assert again["digests"]["tuned"] == read(world / name / "verdict.json")["digests"]["tuned"]


def test_a_list_is_judged_by_its_pairs(world: Path) -> None:
    out = world / "lists"
    verdict, rows = read(out / "verdict.json"), pq.read_table(out / "scores" / "cases.parquet").to_pylist()
    assert (verdict["task"], verdict["metric"]) == ("preferences", "preference_accuracy")
    assert {len(row["tuned_measured"]) for row in rows} == {6}
    for row in rows:
        best = row["tuned_measured"]
        assert row["tuned_score"] == pytest.approx(sum(a > b for a, b in zip(best[::2], best[1::2])) / 3)
        assert row["rejected"].startswith("2. ")
    row = rows[0]
    second = row["rejected"].split("\n\n")[0].removeprefix("2. ")
    found = [nats(out / "merged", row["prompt"], text) for text in (row["reference"], second)]
    assert row["tuned_measured"][:2] == pytest.approx(found, rel=1e-4)
    assert {len(each) for each in read(out / "reference.json")["nats"].values()} == {3}
    audit = read(out / "audit.json")
    assert any("40 lists of replies hold 120 pairs, 3.0 each" in note for note in audit["warnings"])
    learned = [row for row in rows_of(out) if "loss" in row]
    assert learned[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert learned[-1]["loss"] < 0.69
    assert "mean of 3 pairs" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": {"preference": {"beta": 0.2}}}, "objective.preference is how pairs are learned"),
        ({"objective": {"kto": {"beta": 0.0}}}, "objective.kto.beta is 0"),
        ({"objective": {"kto": {"undesirable": 0.0}}}, "objective.kto.undesirable is 0"),
        ({"adapt": {"dropout": 0.1}}, "adapt.dropout"),
        ({"regularise": {"kl": 0.1}}, "objective.kto.beta is what holds"),
        ({"task": {"metric": "rouge_l"}}, "task.metric rouge_l: task feedback"),
        ({"task": {"name": "chat"}}, "is a reply that is marked good or bad"),
        ({"task": {"name": "preferences"}}, "is a marked, and task preferences learns pairs"),
    ],
)
def test_what_cannot_work_is_refused(world: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        start(world, "refused", **changes)
    assert not (world / "refused").exists()


def test_keys_of_marks_are_refused_for_pairs(world: Path) -> None:
    with pytest.raises(InputError, match="is how marked replies are learned"):
        start(world, "refused", "lists.jsonl", objective={"kto": {"beta": 0.2}})


def test_what_comes_after_works(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out, asked = world / "run", tiny_runs.written(tmp_path / "asked.jsonl", [{"prompt": "dog 1: what is it?"}])
    for words in (
        ["chat", str(out), "--once", "Where is the dog?", "--max-tokens", "3"],
        ["predict", str(out), str(asked), "answers.jsonl"],
        ["next", str(out)],
        ["compare", str(out), str(out)],
        ["audit", "--data", str(world / "marked.jsonl")],
    ):
        found = typed(words)
        assert found.code == 0, (words, found.text)
    recipe = tmp_path / "recipe.yaml"
    found = typed(["init", str(world / "marked.jsonl"), "--model", str(world / "model"), "--out", str(recipe), "--yes"])
    assert found.code == 0, found.text
    said = yaml.safe_load(recipe.read_text())
    assert (said["task"]["name"], said["data"]["columns"]["mark"]) == ("feedback", "label")
