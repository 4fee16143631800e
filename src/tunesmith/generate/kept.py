"""What a sampler already has from a call that was stopped, and where it puts what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tunesmith.types import Completion


def nowhere(fresh: Mapping[int, Completion]) -> None:
    return


@dataclass(frozen=True, slots=True)
class Kept:
    """`known`: completions by row of the same call, made before it was stopped. `keep` is given those of each batch as
    soon as it is done. Batches are cut over all rows, known or not, so that going on gives the same bits as never
    having stopped."""

    known: Mapping[int, Completion] = field(default_factory=dict)
    keep: Callable[[Mapping[int, Completion]], None] = nowhere
