"""The two-sample test says nothing of halves of one set, and finds another one; the link of labels by hand."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tunesmith import target_inputs
from tunesmith.data.columns import Columns
from tunesmith.data.lines import Reading
from tunesmith.data.shift import LINKED, compared, cramers_v, facts, findings, linked, told_apart, wilson
from tunesmith.data.split import split
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message

WORDS = [f"{a}{b}" for a in ("lo", "ka", "mi", "ru", "te", "so") for b in ("ran", "vel", "dor", "nis", "pal", "gum")]


def texts(rng: random.Random, num: int, rare: str = "") -> list[str]:
    return [" ".join([*rng.choices(WORDS, k=8), *([rare] if rare and rng.random() < 0.5 else [])]) for _ in range(num)]


def test_halves_of_one_set_are_not_told_apart() -> None:
    """An A/A test: of 60 intervals about 3 miss one half."""
    rng = random.Random(1)
    found = [told_apart(texts(rng, 60), texts(rng, 60), seed) for seed in range(60)]
    assert sum(not t.low <= 0.5 <= t.high for t in found) <= 8
    assert abs(np.mean([t.right_frac for t in found]) - 0.5) < 0.03


def test_another_set_is_told_by_its_word() -> None:
    rng = random.Random(2)
    found = told_apart(texts(rng, 400), texts(rng, 400, "refund"))
    assert found.low > 0.65
    assert found.second_words[0] == "refund"


def rows(rng: random.Random, num: int, name: str, rare: str = "") -> list[Example]:
    return [Example(f"{name}{k}-1", (Message("user", text),), Label("x"), source=f"{name}:{k}")
            for k, text in enumerate(texts(rng, num, rare))]  # fmt: skip


def test_what_will_be_asked_is_held_against_training() -> None:
    """Alike ones are shown and no finding; mutant: the test stands in for the inputs."""
    rng = random.Random(3)
    parts = split(rows(rng, 400, "train"), 0.0, 0.0, "salt", given={"test": rows(rng, 200, "test")})
    found = compared(parts, texts(rng, 300, "refund"))
    assert {name: num for name, (_, num) in found.items()} == {"test": 200, "inputs": 300}
    [finding] = findings(found, parts)
    assert (finding.kind, finding.rows[1].text.split(",")[0]) == ("target_shift", "refund")
    assert facts(found)["test"]["low"] < 0.5 < facts(found)["test"]["high"]
    same = compared(parts, texts(rng, 300))
    assert (list(findings(same, parts)), "inputs" in same) == ([], True)
    assert "inputs" not in compared(parts, texts(rng, 49))


@pytest.mark.parametrize(
    ("name", "columns"),
    [("subject", Columns(prompt=("{subject}: {body}",))), ("question", Columns(prompt=("prompt",)))],
)
def test_inputs_are_read_by_the_columns_of_training_or_as_prompts(tmp_path: Path, name: str, columns: Columns) -> None:
    path = tmp_path / "asked.jsonl"
    said = [{name: f"s{k}", "body": f"b{k}"} for k in range(60)] + [{name: "", "body": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    found = target_inputs.texts(str(path), columns, Reading())
    assert sorted(found) == sorted(f"s{k}: b{k}" if name == "subject" else f"s{k}" for k in range(60))
    path.write_text(json.dumps(said[0]) + "\n")
    with pytest.raises(DataError, match="holds 1 prompts"):
        target_inputs.texts(str(path), columns, Reading())


def test_wilson_by_hand() -> None:
    """8 of 10: (8 + 1.9207) / 13.8415 ± 1.96 * sqrt(1.6 + 0.9604) / 13.8415."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_link_by_hand() -> None:
    """Rows 30 + 10 and 10 + 30: chi-squared 20 of 80, V = sqrt(20 / 80) = 0.5."""
    strength, p = cramers_v(np.array([[30, 10], [10, 30]]))
    assert strength == pytest.approx(0.5)
    assert p < 1e-4
    assert cramers_v(np.array([[20, 20], [20, 20]])) == (0.0, 1.0)


def test_labels_that_go_with_a_group_are_named() -> None:
    def row(k: int, label: str, group: str) -> Example:
        return Example(f"{k}-1", (Message("user", f"t {k}"),), Label(label), source=f"a:{k}", slices={"region": group})

    rows = [row(k, "yes" if (k % 4 > 0) == (k % 2 > 0) else "no", "north" if k % 2 else "south") for k in range(200)]
    [found] = linked(rows)
    assert "'region'" in found.what
    assert [(r.text, r.note) for r in found.rows] == [
        ("region = south", "no: 50%, yes: 50%"),
        ("region = north", "yes: 100%"),
    ]
    assert (
        list(linked([row(k, "yes" if k // 2 % 2 else "no", "north" if k % 2 else "south") for k in range(200)])) == []
    )


def test_what_a_group_has_too_many_of_is_dropped_until_the_link_is_gone() -> None:
    """By hand: 90 + 30 and 20 + 60, together 110 : 90, so of the first 36.7 + 30 are kept, of the second 20 + 16.4; the
    third lacks a label, and nothing of it goes."""
    counts = {("a", "x"): 90, ("a", "y"): 30, ("b", "x"): 20, ("b", "y"): 60, ("c", "x"): 25}
    rows = [
        Example(f"{g}{v}{k}-1", (Message("user", f"t {g}{v}{k}"),), Label(v), source=f"{g}{v}:{k}", slices={"g": g})
        for (g, v), num in counts.items() for k in range(num)
    ]  # fmt: skip
    [found] = linked(rows)
    assert found.every is not None
    gone = list(found.every())
    left = Counter(source.split(":")[0] for source in {e.source for e in rows} - set(gone))
    assert len(gone) == len(set(gone))
    assert left == {"ax": 37, "ay": 30, "bx": 20, "by": 16, "cx": 25}
    assert found.command.endswith("--drop linked")
    strength, _ = cramers_v(np.array([[left["ax"], left["ay"]], [left["bx"], left["by"]]]))
    assert strength < 0.01 < LINKED
