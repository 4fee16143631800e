"""Recipes: every mistake is one message that names the key and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipe import known_keys, override, parse, read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modle": "x"}, "did you mean model"),
        ({"lr": 1}, "did you mean train.lr"),
        ({"train": {"learning_rate": 1}}, "unknown key train.learning_rate"),
        ({"train": {"epoch": 1}}, "did you mean train.epochs"),
        ({"adapt": {"rnak": 4}}, "did you mean adapt.rank"),
        ({"train": 3}, "train is 3; wanted keys and values"),
        ({"train": {"epochs": 0}}, "train.epochs is 0"),
        ({"train": {"epochs": "many"}}, "train.epochs is 'many'"),
        ({"train": {"lr": "fast"}}, "train.lr is 'fast'"),
        ({"train": {"lr": -1e-3}}, "train.lr is -0.001"),
        ({"adapt": {"method": "lorra"}}, "adapt.method is 'lorra'"),
        ({"data": {"test_frac": 1.5}}, "data.test_frac is 1.5"),
        ({"evals": {"alpha": 0.7}}, "evals.alpha is 0.7"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        parse(settings)


def test_a_file_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: here\ndata:\n  train: rows.csv\ntrain: {epochs: 3}\n")
    recipe, text = read(path, dict(override(s) for s in ("train.lr=2e-4", "adapt.targets=[q_proj]", "data.test=t.csv")))
    assert recipe.model == "here"
    assert recipe.data.train == ("rows.csv",)
    assert recipe.data.test == ("t.csv",)
    assert recipe.train.epochs == 3
    assert recipe.adapt.targets == ("q_proj",)
    assert read_again(tmp_path, text) == recipe


def read_again(folder: Path, text: str) -> Any:
    (folder / "kept.yaml").write_text(text)
    return read(folder / "kept.yaml", {})[0]


@pytest.mark.parametrize("text", ["nothing", "=3", "a.b={"])
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(RecipeError):
        override(text)


def test_yaml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        read(path, {})
    with pytest.raises(RecipeError, match="is not there"):
        read(tmp_path / "no.yaml", {})


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(RecipeError, match="is not YAML"):
        read(path, {})
    assert not (tmp_path / "ran").exists()


def test_keys_are_dotted() -> None:
    assert {"model", "data.columns.prompt", "train.optim.clip_norm"} <= set(known_keys())


@pytest.mark.parametrize("word", ["off", "no", "yes", "on"])
def test_words_that_older_yaml_takes_for_booleans_are_words(word: str, tmp_path: Path) -> None:
    assert override(f"evals.guards={word}") == ("evals.guards", word)
    (tmp_path / "r.yaml").write_text("evals: {guards: off}\ntrain: {compile: true}\ndata: {columns: {label: no}}\n")
    recipe, text = read(tmp_path / "r.yaml", {"train.compile": "yes"})
    assert (recipe.evals.guards, recipe.train.compile, recipe.data.columns.label) == ("off", True, "no")
    (tmp_path / "kept.yaml").write_text(text)
    assert read(tmp_path / "kept.yaml", {})[0] == recipe


def test_a_group_that_holds_comments_alone_can_be_set(tmp_path: Path) -> None:
    """As `tunesmith init` leaves `adapt:`."""
    (tmp_path / "r.yaml").write_text("adapt:  # which weights train\n  # rank: 16\n")
    assert read(tmp_path / "r.yaml", {"adapt.rank": 8})[0].adapt.rank == 8
