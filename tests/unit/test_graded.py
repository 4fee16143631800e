"""`tunesmith grade`: what is read of a file of outputs, and what is said of its grades."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunesmith import graded
from tunesmith.cli.main import app
from tunesmith.errors import DataError, InputError, RecipeError
from tunesmith.files import sha256_file
from tunesmith.folder import Silent

RECIPE = """
reward:
  - {kind: numeric, reference: gold}
  - {kind: length, most: 6, buffer: 4, unit: words, weight: 0.5}
"""
# 42 words: 1 - 0.5 x 1/4; wrong; right and short
ROWS: list[dict[str, Any]] = [
    {"prompt": "6 x 7?", "gold": 42, "output": "it is 42"},
    {"prompt": "6 x 7?", "gold": 42, "output": "it is 43 I think so"},
    {"prompt": "1 + 1?", "gold": 2, "output": "2"},
    {"prompt": "1 + 1?", "gold": 2, "output": "so: 2"},
    {"prompt": "1 + 2?", "gold": 3, "output": None},
]


def written(folder: Path, rows: list[dict[str, Any]] = ROWS, recipe: str = RECIPE) -> tuple[Path, Path]:
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "recipe.yaml", folder / "rows.jsonl"


def tried(recipe: Path, rows: Path, **asked: Any) -> dict[str, Any]:
    return graded.grade_file(graded.recipe_of(recipe, {}), rows, graded.Asked(**asked), Silent())[1]


def the_table(recipe: Path, rows: Path) -> None:
    """Rewards 1 - 0.125, 0 - 0.5, 1, 1."""
    said = tried(recipe, rows)
    assert (said["num_rows"], said["num_left_out"], said["num_ungraded"]) == (4, 1, 0)
    assert said["reward"]["mean"] == pytest.approx((0.875 - 0.5 + 1 + 1) / 4)
    assert said["reward"]["sd"] == pytest.approx(0.6335, abs=1e-4)
    assert (said["reward"]["least"], said["reward"]["most"]) == (-0.5, 1)
    assert (said["reward"]["at_least_frac"], said["reward"]["at_most_frac"]) == (0.25, 0.5)
    assert said["parts"]["numeric"]["mean"] == 0.75
    assert said["parts"]["length"]["mean"] == pytest.approx((-0.25 - 1) / 4)
    assert [one["line"] for one in said["worst"]] == [2, 1, 3]
    assert said["best"][0]["output"] == "so: 2"
    assert (said["num_groups"], said["num_groups_all_equal"], said["all_equal"]) == (2, 1, False)


def test_the_table_is_what_a_hand_computes(tmp_path: Path) -> None:
    the_table(*written(tmp_path))


@pytest.mark.parametrize("mutant", ["a share of what is seen", "groups by row"])
def test_mutants_of_the_table_are_found(tmp_path: Path, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = graded.column
    if mutant == "groups by row":
        monkeypatch.setattr(graded, "groups_of", lambda found: [[one.grade.value] for one in found])
    else:
        monkeypatch.setattr(graded, "column", lambda values, ends: whole(values, (max(values), min(values))))
    with pytest.raises(AssertionError):
        the_table(*written(tmp_path))


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    recipe, rows = written(tmp_path)
    out = tmp_path / "graded.csv"
    done = CliRunner().invoke(app, ["grade", str(recipe), str(rows), "--out", str(out)])
    assert done.exit_code == 0, done.output
    for words in (
        "numeric",
        "4 outputs graded",
        "of 2 prompts with several outputs, 1 have equal rewards",
        "worst: -0.5",
    ):
        assert words in done.output
    with out.open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["reward"] for row in found] == ["0.875", "-0.5", "1.0", "1.0"]
    assert found[0]["reward: length"] == "-0.25"
    assert "is there already" in str(
        CliRunner().invoke(app, ["grade", str(recipe), str(rows), "--out", str(out)]).exception
    )
    told = CliRunner().invoke(app, ["grade", str(recipe), str(rows), "--json"])
    assert json.loads(told.stdout)["reward"]["most"] == 1


def test_equal_rewards_are_called_what_they_are(tmp_path: Path) -> None:
    recipe, rows = written(tmp_path, [{"output": "a", "gold": 1}, {"output": "bb", "gold": 2}])
    done = CliRunner().invoke(app, ["grade", str(recipe), str(rows)])
    assert "all rewards are 0: nothing could be learned from it" in done.output


def test_what_cannot_be_graded_is_counted_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(output, facts):\n    return 1 / len(output)\n")
    recipe, rows = written(
        tmp_path, [{"output": t, "a": 1} for t in ("", "x", "")], "reward: {kind: python, file: mine.py:score}"
    )
    said = tried(recipe, rows)  # the file lies beside the recipe, and one part is a list of one
    assert said["files"] == {str(tmp_path / "mine.py"): sha256_file(tmp_path / "mine.py")}
    assert (said["num_ungraded"], said["reward"]["mean"]) == (2, pytest.approx(1 / 3))
    assert said["ungraded_why"] == {"python: ZeroDivisionError: division by zero (line 2)": 2}


def test_a_table_says_how_many_tokens_an_output_has(tmp_path: Path) -> None:
    """In a CSV file a number is a text; a cell without one is no number."""
    recipe, _ = written(tmp_path, recipe="reward: [{kind: length, most: 10, buffer: 10}]")
    (tmp_path / "rows.csv").write_text("output,num_tokens\nyes,5\nyes,\nyes,many\n")
    found, _ = graded.grade_file(graded.recipe_of(recipe, {}), tmp_path / "rows.csv", graded.Asked(), Silent())
    assert [one.attempt.num_tokens for one in found] == [5, 1, 1]


def test_a_table_that_is_there_already_is_said_before_anything_is_graded(tmp_path: Path) -> None:
    recipe, rows = written(tmp_path, recipe="reward: [{kind: exact, reference: none}]")
    out = tmp_path / "graded.csv"
    out.write_text("mine")
    done = CliRunner().invoke(app, ["grade", str(recipe), str(rows), "--out", str(out)])
    assert isinstance(done.exception, InputError), done.output
    assert "is there already" in str(done.exception)


def test_files_of_predictions_and_of_messages(tmp_path: Path) -> None:
    exact = "reward: [{kind: exact, reference: answer}]\n"
    rows = [{"question": "q", "answer": "a", "predicted answer": "a", "confidence": 0.5, "cut": "true", "problem": ""},
            {"question": "q", "answer": "a", "predicted answer": "", "problem": "the prompt is empty"}]  # fmt: skip
    assert tried(*written(tmp_path, rows, exact))["reward"]["mean"] == 1
    [(_, _, given)], left_out = graded.attempts_in(tmp_path / "rows.jsonl", graded.Recipe().data, None)
    assert (left_out, given.stopped) == (1, False)
    assert dict(given.example.target.facts) == {"question": "q", "answer": "a"}  # type: ignore[union-attr]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert tried(*written(tmp_path, [{"messages": turns, "answer": "a"}], exact))["reward"]["mean"] == 1
    other = [{"said": "a", "answer": "b"}, {"said": "b", "answer": "b"}]
    assert tried(*written(tmp_path, other, exact), output="said")["reward"]["mean"] == 0.5
    with pytest.raises(DataError, match="--output COLUMN"):
        tried(*written(tmp_path, [{"said": "a", "gold": "b"}], exact))


def test_columns_of_the_recipe_hold(tmp_path: Path) -> None:
    """The same file as a reward in training reads it: the reply of the data is the reference."""
    recipe = "data: {columns: {prompt: q, reply: gold}}\nreward: [{kind: exact}]\n"
    assert (
        tried(*written(tmp_path, [{"q": "1", "gold": "a", "more": "x", "output": "a"}], recipe))["reward"]["mean"] == 1
    )
    recipe = "data: {columns: {prompt: q, facts: [gold]}}\nreward: [{kind: exact}]\n"
    assert (
        tried(*written(tmp_path, [{"q": "1", "gold": "a", "more": "x", "output": "a"}], recipe))["reward"]["mean"] == 1
    )


def test_a_grader_object_is_enough(tmp_path: Path) -> None:
    _, rows = written(tmp_path, [{"output": "it is Ulm", "gold": "ulm"}])
    grader = tmp_path / "grader.json"
    grader.write_text(json.dumps({
        "type": "string_check", "name": "g", "operation": "ilike", "input": "{{ sample.output_text }}",
        "reference": "{{ item.gold }}",
    }))  # fmt: skip
    assert tried(grader, rows)["reward"]["mean"] == 1
    assert graded.recipe_of(grader, {"evals.code.trust_local_code": True}).evals.code.trust_local_code
    with pytest.raises(InputError, match="could not be read"):
        tried(tmp_path / "gone.json", rows)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("seed: 1\n", "has no reward"),
        ("reward: [{kind: exakt}]\n", "Did you mean exact"),
        ("reward: 3\n", "reward is 3; wanted a list"),
        ("reward: [{kind: exact, referense: a}]\n", "referense"),
    ],
)
def test_a_recipe_without_a_reward_or_with_a_wrong_one(tmp_path: Path, recipe: str, words: str) -> None:
    with pytest.raises((RecipeError, InputError), match=words):
        tried(*written(tmp_path, ROWS, recipe))
