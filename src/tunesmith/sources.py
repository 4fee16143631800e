"""The files that a recipe names, and their rows as it says how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.data import ingest
from tunesmith.data.columns import Columns
from tunesmith.data.located import check_there, files_named, find_splits
from tunesmith.data.mixture import named
from tunesmith.data.progress import Step, untold
from tunesmith.errors import DataError, RecipeError
from tunesmith.heritage import opened
from tunesmith.recipe import Recipe
from tunesmith.replay import replay_files


def files_of(recipe: Recipe) -> dict[str, list[Path]]:
    """Split -> files. A folder or a hub name is searched for all splits; what the recipe says outright wins."""
    named = recipe.data.named
    if not named:
        raise RecipeError("data.train names no file: give --data FILE or a folder with train, dev and test files")
    found: dict[str, list[Path]] = {"train": []}
    for name in named:
        for part, paths in find_splits(name).items():
            found.setdefault(part, []).extend(paths)
    for part, names in (("dev", recipe.data.dev), ("test", recipe.data.test)):
        if names:
            found[part] = [file for name in names for file in files_named(name)]
    return found


def ood_files(recipe: Recipe) -> list[Path]:
    return [file for name in recipe.data.ood for file in files_named(name)]


def check_files(recipe: Recipe) -> None:
    """Before anything takes time: each file that the recipe names is there."""
    for paths in (*files_of(recipe).values(), ood_files(recipe), replay_files(recipe)):
        for path in paths:
            check_there(path)
    if recipe.parent.run is not None:
        opened(Path(recipe.parent.run))


def read_train(recipe: Recipe, files: Sequence[Path], step: Step = untold) -> ingest.Ingested:
    """The training rows: of `files`, or of each source by its own columns."""
    if not recipe.data.sources:
        return read_rows(recipe, files, step=step)
    train = lambda names: [path for name in names for path in find_splits(name)["train"]]
    parts = [ingest.Part(train(s.files), s.columns, s.templates, named(s)) for s in recipe.data.sources]
    return checked(recipe, ingest.read_parts(parts, recipe.data.reading, step))


def read_rows(
    recipe: Recipe, files: Sequence[Path], columns: Columns | None = None, step: Step = untold
) -> ingest.Ingested:
    """The files as the recipe says how to read them. Under data.strict a rejected row is an error."""
    said = recipe.data.columns if columns is None else columns
    return checked(recipe, ingest.read(files, said, recipe.data.reading, step))


def checked(recipe: Recipe, found: ingest.Ingested) -> ingest.Ingested:
    if recipe.data.strict and found.rejected:
        shown = "; ".join(map(str, found.rejected[:5])) + (" …" if len(found.rejected) > 5 else "")
        raise DataError(
            f"data.strict: {len(found.rejected)} of {found.num_rows} rows cannot be used: {shown}. Mend them, or leave "
            "data.strict out: then they are listed and left out"
        )
    return found
