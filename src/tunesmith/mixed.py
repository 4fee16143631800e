"""The sources of a recipe as records: read each by its own columns, phrased, with rows before rows, and mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from tunesmith.data import kept_tokens
from tunesmith.data.ingest import Ingested
from tunesmith.data.mixture import Mixture, Part, Share, Source, named, quotas
from tunesmith.data.outcomes import Rendered
from tunesmith.data.render import Renderer
from tunesmith.data.stored import Chosen, Joined, Made
from tunesmith.data.traits import key
from tunesmith.errors import DataError
from tunesmith.evals.tasks import Form
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Record

Rows = Sequence[Example]
TRIES = 8  # rows that are drawn for each that is to stand before another, as some ask the same


def rendered(
    recipe: Recipe, renderer: Renderer, main: Ingested, train: Rows, made: Callable[[Rows], Rows], said: str,
    progress: Callable[[int], None],
) -> tuple[Rendered, Mixture | None]:  # fmt: skip
    """The training rows as records, and how they are mixed where there are sources. `made`: rows as they are trained,
    as `said` says."""
    sources = recipe.data.sources
    if not sources:
        return kept_tokens.rendered(renderer, train, made(train), said, progress), None
    assert isinstance(train, Chosen)
    of, found, done = np.searchsorted(main.ends, train.at, side="right"), list[Rendered](), 0
    for number, source in enumerate(sources):
        rows = Chosen(train.whole, train.at[of == number])
        if not rows:
            raise DataError(
                f"source {named(source)}: none of its rows is learned from, as all went to dev or test, or could not "
                "be read. Give it more rows, or leave it out"
            )
        shown: Rows = rows
        if source.shots:
            shown = Made(rows, lambda e, rows=rows, source=source: with_shots(e, rows, source, recipe.seed))  # type: ignore[misc]
        what = f"{said}\0{source.shots} {source.shots_frac} {recipe.seed}"
        before = done
        found.append(kept_tokens.rendered(renderer, rows, made(shown), what, lambda n, b=before: progress(b + n)))  # type: ignore[misc]
        done += len(rows)
    sizes = [len(each.records) for each in found]
    ends = np.cumsum([0, *sizes]).tolist()
    share = quotas(sizes, sources, recipe.data.mixing)
    parts = [Part(named(s), *bounds) for s, *bounds in zip(sources, ends, ends[1:], share)]
    records, dropped, cut = (
        reduce(Joined, [getattr(each, name) for each in found]) for name in ("records", "dropped", "cut")
    )
    return Rendered(records, dropped, cut, found[0].shown), Mixture(tuple(parts), recipe.seed)


def with_shots(example: Example, rows: Rows, source: Source, seed: int) -> Example:
    """With other rows of its source before it as earlier turns, or alone: its id draws which. A shot asks something
    else than the row, and stands in training as the row does."""
    drawn = hashlib.sha256(f"{seed}:shots:{example.id}".encode()).digest()
    draw = np.random.default_rng(list(drawn))
    if draw.random() >= source.shots_frac:
        return example
    asked = {key(example): example}
    for at in draw.integers(len(rows), size=TRIES * source.shots).tolist():
        if len(asked) <= source.shots:
            asked.setdefault(key(rows[at]), rows[at])
    _, *shots = asked.values()
    turns = Form("shots", "none", tuple(shots)).prompt(example, "")
    return replace(example, prompt=turns)


def with_all_of(
    mixture: Mixture | None, train: Sequence[Record], more: Mapping[str, Sequence[Record]]
) -> Mixture | None:  # fmt: skip
    """The mixture with records behind it that stand in every epoch: general ones, earlier ones."""
    if mixture is None:
        return None
    parts, end = list(mixture.parts), len(train)
    for name, records in more.items():
        parts.append(Part(name, end, end + len(records), len(records)))
        end += len(records)
    return Mixture(tuple(parts), mixture.seed)


def rows(shares: Sequence[Share]) -> Iterator[tuple[str, object, str]]:
    """Of the plan: key, value, why."""
    for share in shares:
        yield f"source {share.name}", f"{share.drawn_frac:.1%}", f"of the examples: {share.words}"
