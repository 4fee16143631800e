"""The part of a recipe that is about data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tunesmith.data.columns import Columns
from tunesmith.data.drawn import By
from tunesmith.data.mixture import Mixing, Replay, Source
from tunesmith.data.rows import Reading


@dataclass(frozen=True, slots=True)
class Data:
    # files, or one folder in which train…, dev… and test… files are found; seen from where tunesmith is started
    train: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()  # instead of data.train: files with columns, templates and a weight of their own
    mixing: Mixing = field(default_factory=Mixing)  # how many rows of each of them stand in an epoch
    dev: tuple[str, ...] = ()  # files to make choices on; without one, dev_frac of the training rows
    test: tuple[str, ...] = ()  # files of held-out cases for the verdict; without one, test_frac of the training rows
    ood: tuple[str, ...] = ()  # files of cases from elsewhere (other months, another shop): a row beside the verdict
    # files of public tests that you will quote: training rows that contain their items are told, as of the guard probes
    benchmarks: tuple[str, ...] = ()
    replay: Replay = field(default_factory=Replay)  # general data among the training rows, so that less is forgotten
    columns: Columns = field(default_factory=Columns)  # which column means what; what is left out is told by its name
    reading: Reading = field(default_factory=Reading)  # how files are read, where they do not tell it themselves
    dev_frac: float = 0.1  # share of the rows to make choices on, where no dev file is given
    test_frac: float = 0.1  # share of the rows held out for the verdict; more cases find smaller differences
    split_seed: int | None = None  # which rows are held out; null: the recipe's seed
    # who is held out: rows by the hash of their content, the newest (data.columns.when), or of each label its share
    split_by: By = "content"
    near_together: bool = True  # rows that are nearly the same go to one side, so that no test row was nearly learned
    max_tokens: int = 1024  # longest example, prompt and reply together; more takes more memory
    synthetic: bool = True  # false: rows that `tunesmith synthesise` wrote are left out, to see what they bring
    strict: bool = False  # true: a row that cannot be used is an error; else it is listed and left out
    too_long: Literal["drop", "cut"] = "drop"  # what happens to longer examples: left out, or the prompt is shortened

    @property
    def named(self) -> tuple[str, ...]:
        return (*self.train, *(name for source in self.sources for name in source.files))
