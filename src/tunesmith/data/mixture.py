"""Several sources in one training set: how each is phrased, and how many of its rows stand in an epoch.

Examples-proportional mixing with a cap and a temperature as in FLAN (Wei et al. 2022, arXiv:2109.01652; Chung et al.
2022, arXiv:2210.11416) and T5 (Raffel et al. 2020, arXiv:1910.10683): rate_i = min(n_i, K)^(1/T) / sum_j of the same,
or weights that are said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.fill import is_template
from tunesmith.data.records import Sizes
from tunesmith.data.rows import Row
from tunesmith.errors import DataError, RecipeError

DRAWS = 0x4D4958  # keeps the generators of a source's draws apart from those of an epoch's order


@dataclass(frozen=True, slots=True)
class Template:
    prompt: str = ""  # a text with {column} in it
    reply: str | None = None  # the same, such as "{rationale} So it is {answer}."; null: as data.columns says


@dataclass(frozen=True, slots=True)
class Source:
    name: str = ""  # what it is called in the plan; else the name of its first file
    files: tuple[str, ...] = ()  # in any form that data.train may have
    weight: float | None = None  # its share of the examples is this, of all weights; null: by its size
    columns: Columns = field(default_factory=Columns)  # which column means what, in these files
    templates: tuple[Template, ...] = ()  # phrasings, of which each row has one, drawn by the hash of its prompt
    shots: int = 0  # other rows of the source that stand before a row, as earlier turns
    shots_frac: float = 0.5  # share of the rows that have these; the others stand alone


@dataclass(frozen=True, slots=True)
class Mixing:
    cap: int | None = None  # rows that a source counts for at most, however large it is; 3,000 in FLAN
    temperature: float = 1.0  # above 1 small sources have more than their share; very large: all the same
    rows: int | None = None  # examples of an epoch; null: all rows of all sources, each source up to the cap


@dataclass(frozen=True, slots=True)
class Replay:
    files: tuple[str, ...] = ()  # general examples, in any form that data.train may have
    share: float = 0.1  # of all learned tokens that theirs are; the plan says what came out


def named(source: Source) -> str:
    return source.name or Path(source.files[0]).name.partition(".")[0]


def check(sources: Sequence[Source], mixing: Mixing, train: Sequence[str]) -> None:
    """RecipeError at what nothing would read, or cannot be."""
    if not sources:
        if mixing != Mixing():
            raise RecipeError("data.mixing mixes data.sources, and there is none: name them, or leave it out")
        return
    if train:
        raise RecipeError("data.train and data.sources both name what is learned from: make data.train a source too")
    for number, source in enumerate(sources):
        key = f"data.sources[{number}]"
        if not source.files:
            raise RecipeError(f"{key}.files names no file")
        if source.weight is not None and not source.weight > 0:
            raise RecipeError(f"{key}.weight is {source.weight}; wanted a number above 0, or leave the source out")
        if source.shots < 0 or not 0 <= source.shots_frac <= 1:
            raise RecipeError(f"{key} has shots {source.shots} and shots_frac {source.shots_frac}; wanted 0 or more, "
                              "and a share from 0 to 1")  # fmt: skip
        if any(not is_template(t.prompt) for t in source.templates):
            raise RecipeError(f"{key}.templates has a prompt without a {{column}}: all rows would ask the same")
    names = [named(source) for source in sources]
    if len(set(names)) < len(names):
        raise RecipeError(f"data.sources has two of one name ({', '.join(names)}): give each a name of its own")
    has_weight = [source.weight is not None for source in sources]
    if any(has_weight) and not all(has_weight):
        raise RecipeError("some of data.sources have a weight and some none: give each one, or none of them")
    if any(has_weight) and (mixing.cap is not None or mixing.temperature != 1):
        raise RecipeError("data.mixing.cap and temperature are about sizes, and here weights are said: leave them out")
    counts = {"cap": mixing.cap, "rows": mixing.rows, "temperature": mixing.temperature}
    for key, value in counts.items():
        if value is not None and not value > 0:
            raise RecipeError(f"data.mixing.{key} is {value}; wanted a number above 0")


def phrased(columns: Columns, templates: Sequence[Template], row: Row) -> Columns:
    """As the template of this row has them: the same for all rows that ask the same."""
    first = applied(columns, templates[0])
    said = "\0".join(m.content for m in prompt_of(row, first))
    drawn = int.from_bytes(hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return applied(columns, templates[drawn % len(templates)])


def applied(columns: Columns, template: Template) -> Columns:
    asked = replace(columns, prompt=(template.prompt,))
    return asked if template.reply is None else replace(asked, reply=template.reply, label=None)


def quotas(sizes: Sequence[int], sources: Sequence[Source], mixing: Mixing) -> list[int]:
    """Rows of each source in an epoch, by largest remainder."""
    counted = np.array([min(n, mixing.cap or n) for n in sizes], np.float64)
    said = [source.weight for source in sources if source.weight is not None]
    rate = np.array(said, np.float64) if said else counted ** (1 / mixing.temperature)
    exact = rate / rate.sum() * (mixing.rows or counted.sum())
    found = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - found), kind="stable")[: round(float(exact.sum())) - int(found.sum())]
    found[rest] += 1
    for source, num in zip(sources, found):
        if num == 0:
            raise DataError(
                f"source {named(source)} has less than half an example in an epoch of {int(found.sum())}: raise its "
                "weight, or data.mixing.rows or temperature; or leave it out"
            )
    return [int(num) for num in found]


@dataclass(frozen=True, slots=True)
class Part:
    """The records from `begin` to before `stop`, of which `quota` stand in each epoch."""

    name: str
    begin: int
    stop: int
    quota: int


class Share(NamedTuple):
    """What a source came to."""

    name: str
    num_rows: int
    num_drawn: int
    drawn_frac: float
    learned_frac: float
    token_frac: float

    @property
    def words(self) -> str:
        return (
            f"{self.num_drawn} examples of {self.num_rows} rows, each seen {self.num_drawn / self.num_rows:.2g} times: "
            f"{self.learned_frac:.1%} of the learned tokens, {self.token_frac:.1%} of all"
        )


@dataclass(frozen=True, slots=True)
class Mixture:
    """Each source is an endless row of permutations of its records, of which each epoch takes the next `quota`: no row
    comes again before all others of its source came. What an epoch holds follows from its number alone."""

    parts: tuple[Part, ...]
    seed: int

    def drawn(self, epoch: int) -> np.ndarray:
        """Numbers of the records of an epoch, uint32, source by source."""
        return np.concatenate([self._of(number, epoch) for number in range(len(self.parts))]).astype(np.uint32)

    def _of(self, number: int, epoch: int) -> np.ndarray:
        part = self.parts[number]
        size, first = part.stop - part.begin, epoch * part.quota
        last, found = first + part.quota, []
        for turn in range(first // size, -(-last // size)):
            draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, number, turn, DRAWS])))
            order = draw.permutation(size)
            found.append(order[max(first - turn * size, 0) : last - turn * size])
        return part.begin + np.concatenate(found)

    def shares(self, given: np.ndarray, sizes: Sizes) -> list[Share]:
        """Of each source among the records that were `given`, by number, as often as they were."""
        of = np.searchsorted([part.stop for part in self.parts], given, side="right")
        drawn, learned, tokens = (
            np.bincount(of, weight, len(self.parts)) for weight in (None, sizes.learned[given], sizes.tokens[given])
        )
        each = zip(self.parts, drawn, drawn / drawn.sum(), learned / max(1, learned.sum()), tokens / tokens.sum())
        return [Share(p.name, p.stop - p.begin, int(n), float(f), float(a), float(b)) for p, n, f, a, b in each]
