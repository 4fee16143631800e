"""How far a verdict holds, on whole tiny runs: what is always there, what is asked on demand, and planted canaries."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs

from tunesmith import by_heart, robustness
from tunesmith.errors import DataError
from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


def do(settings: dict[str, Any], out: Path, *, resume: bool = False) -> dict[str, Any]:
    return run(parse(settings), yaml.safe_dump(settings), out, Silent(), resume=resume)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled rows with a region: every second one is of the north, the others of two regions."""
    path = tiny_runs.labelled_file(tmp_path_factory.mktemp("data") / "rows.jsonl", 210)
    rows = rows_of(path)
    for i, row in enumerate(rows):
        row["region"] = ("south", "west")[i % 4 // 2] if i % 2 else "north"
    return tiny_runs.written(path, rows)


def asked(model: Path, data: Path, level: str, **more: Any) -> dict[str, Any]:
    settings = tiny_runs.settings(model, data, watch=0, max_updates=2, micro_tokens=4096)
    settings["data"] |= {"test_frac": 0.3, "columns": {"slices": ["region"]}, **more}
    settings["evals"] |= {"max_cases": 80, "max_dev_cases": 12, "few_shot": 0, "robustness": level}
    return settings | {"export": []}


def test_a_run_that_asks_everything(model: Path, labelled: Path, tmp_path: Path) -> None:
    other = tiny_runs.labelled_file(tmp_path / "other.jsonl", 12)
    fresh = [row | {"text": f"From elsewhere {row['text']}", "region": "east"} for row in rows_of(other)]
    seen = rows_of(labelled)[:3]
    fresh[0]["label"] = "owl"
    tiny_runs.written(other, fresh + seen)
    settings, out = asked(model, labelled, "quick", ood=[str(other)]), tmp_path / "out"
    verdict = do(settings, out)
    found = json.loads((out / "robustness.json").read_text())

    dimensions = {row["dimension"] for row in found["slices"]["rows"]}
    assert {"length", "region"} <= dimensions
    assert "file" not in dimensions  # there is one
    assert {row["dimension"] for row in found["slices"]["gaps"]} == {"region"}
    worst = min(found["slices"]["rows"], key=lambda row: row["effect"])
    assert verdict["worst_slice"]["effect"] == worst["effect"]
    assert verdict["worst_slice"]["num_slices"] == len(found["slices"]["rows"])

    assert found["ood"]["num_cases"] == 12  # the three rows of the training file are not among them
    assert found["ood"]["unknown_labels"] == ["owl"]
    assert verdict["ood"] == found["ood"]
    assert str(other) in json.loads((out / "lock.json").read_text())["data"]

    assert [row["change"] for row in found["changes"]] == [
        "typos, 10%", "case, 10%", "punctuation, 10%", "wording", "distractor, 10%",
    ]  # fmt: skip
    assert all(row["num_cases"] == 40 for row in found["changes"])
    assert found["out_of_scope"]["num_texts"] >= 32
    assert found["overfitting"]["num_dev"] == 12
    assert found["memorised"] is None  # labels are no replies to recite

    plan = {row["key"]: row for row in json.loads((out / "plan.json").read_text())["resolved"]}
    assert plan["robustness"]["why"].startswith("5 ways to ask 40 cases: 400 answers more")
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    for title in ("How far it holds", "Gaps between groups", "Prompts that are put otherwise", "Cases from elsewhere"):
        assert title in page
        assert title in text

    kept = (out / robustness.KEPT).read_bytes()
    for name in ("robustness.json", "verdict.json"):
        (out / name).unlink()
    again = do(settings, out, resume=True)
    assert json.loads((out / "robustness.json").read_text()) == found
    assert again["notes"] == verdict["notes"]
    assert (out / robustness.KEPT).read_bytes() == kept


def test_off_is_the_default_and_asks_nothing_more(model: Path, labelled: Path, tmp_path: Path) -> None:
    settings = asked(model, labelled, "off")
    del settings["evals"]["robustness"]
    do(settings, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert found["level"] == "off"
    assert found["slices"]["rows"]
    assert found["overfitting"]["gap"] is not None
    assert (found["changes"], found["out_of_scope"], found["memorised"], found["ood"]) == ([], None, None, None)
    assert found["exposure"] is None  # labels hold no secrets
    assert set(json.loads((tmp_path / "out" / robustness.KEPT).read_text())) == {"overfitting", "exposure"}
    assert "not tried (evals.robustness is off)" in (tmp_path / "out" / "report.md").read_text()


def test_planted_canaries_are_recited_and_said_and_the_base_sits_at_chance(model: Path, tmp_path: Path) -> None:
    """Replies of random words and a number, learned until they are known by heart: nothing but training explains
    them."""
    rng = random.Random(5)
    secret = [f"{' '.join(rng.choices(tiny_runs.WORDS, k=16))} {rng.randrange(10**5, 10**6)}" for _ in range(48)]
    rows = [{"prompt": f"Code {i}?", "completion": text} for i, text in enumerate(secret)]
    settings = tiny_runs.settings(model, tiny_runs.written(tmp_path / "rows.jsonl", rows), watch=0)
    settings["data"] |= {"dev_frac": 0.3}
    settings["adapt"] = {"method": "full"}
    settings["train"] |= {
        "epochs": 50,
        "lr": 0.01,
        "update_tokens": 512,
        "micro_tokens": 512,
        "every_checkpoint": 999,
    }
    settings["evals"] |= {"max_dev_cases": 24, "max_cases": 8, "few_shot": 0, "robustness": "quick"}
    verdict = do(settings | {"export": []}, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert found["memorised"]["base"] == 0
    assert found["memorised"]["tuned"] > 0.7
    assert found["memorised"]["dev"] == 0
    assert found["overfitting"]["interval"][0] > 1
    assert any(note.startswith("recites training data") for note in verdict["notes"])
    bits = found["exposure"]
    assert verdict["exposure"] == bits
    low, high = bits["base_interval"]
    assert low < bits["chance"] < high
    assert bits["tuned"] > 4
    assert max(bits["unseen"]) < 3
    assert bits["num_train"] == bits["num_unseen"] == 16
    assert bits["num_tokens"] <= by_heart.MOST_READ["quick"]
    assert all(row["source"].startswith(str(tmp_path)) for row in bits["rows"])
    assert any(note.startswith("training secrets are exposed") for note in verdict["notes"])
    assert (
        f"exposure of 32 secrets in replies: {bits['num_tokens']:,} tokens a model"
        in (tmp_path / "out" / "plan.json").read_text()
    )
    assert "each among 31 others of its form: " in (tmp_path / "out" / "report.md").read_text()


def test_cases_from_elsewhere_that_are_all_known_and_columns_that_are_not_there(
    model: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"all 210 rows of data\.ood also stand in train, dev or test"):
        do(asked(model, labelled, "off", ood=[str(labelled)]), tmp_path / "a")
    with pytest.raises(DataError, match="no column 'regoin'"):
        do(asked(model, labelled, "off", columns={"slices": ["regoin"]}), tmp_path / "b")
    with pytest.raises(DataError, match=r"not_there\.jsonl"):
        do(asked(model, labelled, "off", ood=["not_there.jsonl"]), tmp_path / "c")
    assert not (tmp_path / "a").exists()
