"""`tunesmith ask`: the rows that it asks for teach more than random ones on a planted case, and what people wrote on
its sheet comes back as rows to learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.runs import served, tiny_runs
from tests.runs.mistakes import typed

from tunesmith import label_sheet
from tunesmith.data import ingest
from tunesmith.data.rows import rows
from tunesmith.data.select import scaled
from tunesmith.data.write import write_rows
from tunesmith.folder import Silent
from tunesmith.predict import Prediction
from tunesmith.types import Label

ASKED = 10
NUM_RARE = 10  # kinds of rows that are rare, beside one that most rows are of
Pick = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # (uncertainty, where rows lie, draws)


def planted(draw: np.random.Generator, num_usual: int, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows [n, 6], kinds [n]): kind 0 is usual. The label of a kind is its parity."""
    centres = np.random.default_rng(5).normal(0, 2, (NUM_RARE + 1, 6))
    kind = np.repeat(np.arange(NUM_RARE + 1), [num_usual, *sizes])
    return centres[kind] + draw.normal(0, 0.3, (len(kind), 6)), kind


def shares(x: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n, 2] by the labelled rows nearby; even where there are none."""
    near = np.exp(-((x[:, None] - known[None]) ** 2).sum(2))
    votes = np.stack([near[:, labels == k].sum(1) for k in (0, 1)], axis=1) + 0.01
    return votes / votes.sum(1, keepdims=True)


def learned_from(pick: Pick, seed: int) -> float:
    """Accuracy over the kinds, after the rows that were picked were labelled, beside five usual ones."""
    draw = np.random.default_rng(seed)
    x, kind = planted(draw, 300, [*range(4, 34, 3)])
    said = [Prediction("", probabilities=dict(zip("01", map(float, p)))) for p in shares(x[5:], x[:5], kind[:5] % 2)]
    worth = np.array([label_sheet.uncertainty(one, is_several=False) for one in said])
    asked = np.concatenate([np.arange(5), 5 + pick(worth, x[5:], draw)])
    test, kinds = planted(draw, 20, [20] * NUM_RARE)
    return float((shares(test, x[asked], kind[asked] % 2).argmax(1) == kinds % 2).mean())


def both(worth: np.ndarray, where: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    order = np.argsort(-worth, kind="stable")[: label_sheet.AMONG * ASKED]
    return label_sheet.spread(scaled(where[order].astype(np.float32)), order, ASKED, Silent())


def uncertain(worth: np.ndarray, where: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return np.argsort(-worth, kind="stable")[:ASKED]


def sure(worth: np.ndarray, where: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The mutant: the surest ones."""
    return both(-worth, where, draw)


def chance(worth: np.ndarray, where: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return draw.choice(len(worth), ASKED, replace=False)


def test_uncertain_and_diverse_rows_teach_more_than_random_ones() -> None:
    mean = {pick: np.mean([learned_from(pick, seed) for seed in range(12)]) for pick in (both, chance, uncertain, sure)}
    assert mean[both] > mean[chance] + 0.05
    assert mean[both] > mean[uncertain] + 0.05
    assert mean[sure] < mean[both] - 0.05


@pytest.mark.parametrize(
    ("said", "is_several", "nats"),
    [
        (Prediction("a", probabilities={"a": 0.5, "b": 0.5}), False, np.log(2)),
        (Prediction("a", probabilities={"a": 1.0, "b": 0.0}), False, 0.0),
        (Prediction("a", probabilities={"a": 0.5, "b": 1.0}), True, np.log(2) / 2),
        (Prediction("a text", confidence=0.25), False, np.log(4)),
    ],
)
def test_uncertainty_by_hand(said: Prediction, is_several: bool, nats: float) -> None:
    assert label_sheet.uncertainty(said, is_several=is_several) == pytest.approx(nats, abs=2e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.label_run(tmp_path_factory.mktemp("ask"))


@pytest.fixture
def pool(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 new rows, one of them twice, and three that the run knows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    known = [json.loads(line) for line in (run.parent / "rows.jsonl").read_text().splitlines()[:3]]
    new = [{"text": f"where is the {('fox', 'dog')[k % 2]} {k + 1000}", "id": k} for k in range(40)]
    return tiny_runs.written(tmp_path / "pool.jsonl", [*({"text": r["text"], "id": -1} for r in known), *new, new[0]])


def filled(out: str, labels: list[str]) -> None:
    lines = [dict(row, label=label) for (_, row), label in zip(rows(Path("s.csv")), labels, strict=True)]  # type: ignore[misc]
    write_rows(Path(out), lines, {name: {str} for name in ("row", "text", "label", "comment")})


def test_a_sheet_of_rows_and_what_two_people_wrote_on_it(run: Path, pool: Path) -> None:
    said = typed(["ask", "pool.jsonl", "--model", str(run), "--num", "6", "--sheet", "s.csv", "--json"])
    assert said.code == 0, said.text
    facts = json.loads(said.out)
    assert (facts["num_asked"], facts["num_pool"], facts["column"]) == (6, 40, "label")
    assert facts["left_out"] == {label_sheet.KNOWN: 3, label_sheet.TWICE: 1}
    asked = [row for _, row in rows(Path("s.csv"))]  # type: ignore[misc]
    assert list(asked[0]) == ["row", "text", "label", "comment"]  # what the model thinks stands nowhere
    filled("one.csv", ["fox", "Dog", "clips", "", "fox", "fox"])
    filled("two.csv", ["fox", "dog", "fox", "", "", "fox"])
    words = [
        "ask",
        "--read",
        "one.csv",
        "--read",
        "two.csv",
        "--key",
        "s.key.json",
        "--out",
        "labelled.jsonl",
        "--json",
    ]
    found = json.loads(typed(words).out)
    assert (found["num_rows"], found["left_out"]) == (4, {"people differ": 1, "left empty": 1})
    assert (found["num_shared"], found["agreement"], found["kappa_kind"]) == (4, 0.75, "Cohen")
    made = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert [r["label"] for r in made] == ["fox", "dog", "fox", "fox"]
    assert [r["text"] for r in made] == [asked[k]["text"] for k in (0, 1, 4, 5)]
    assert all(r["pool"] == f"pool.jsonl:{r['id'] + 4}" for r in made)  # three known rows stand before
    assert [r["labelled_by"] for r in made] == ["2 people", "2 people", "1 person", "2 people"]
    left = [json.loads(line) for line in Path("labelled.jsonl.left_out.jsonl").read_text().splitlines()]
    assert [(r["reason"], r["answers"]) for r in left] == [("people differ", ["clips", "fox"]), ("left empty", [])]
    assert all(isinstance(e.target, Label) for e in ingest.read([Path("labelled.jsonl")]).examples)
    filled("bad.csv", ["fax", *[""] * 5])
    refused = typed(["ask", "--read", "bad.csv", "--key", "s.key.json", "--out", "x.jsonl"])
    assert "bad.csv:2: 'fax' is none of the labels (clips, dog, fox)" in refused.text


def test_the_most_uncertain_rows_are_those_that_predict_is_least_sure_of(run: Path, pool: Path) -> None:
    words = ["ask", "pool.jsonl", "--model", str(run), "--num", "3", "--by", "uncertainty", "--sheet", "s.csv"]
    assert typed(words).code == 0
    assert typed(["predict", str(run), "pool.jsonl", "answers.jsonl", "--each-label"]).code == 0
    key = json.loads(Path("s.key.json").read_text())["rows"]
    said = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()][3:-1]
    shares = np.clip([[v for k, v in r.items() if k.startswith("probability: ")] for r in said], 1e-4, 1)
    entropy = -(shares * np.log(shares)).sum(1)
    assert [r["uncertainty"] for r in key.values()] == pytest.approx(sorted(entropy, reverse=True)[:3], abs=1e-3)
