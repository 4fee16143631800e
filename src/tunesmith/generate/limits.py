"""How long and how a prompt is answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tunesmith.errors import RunError
from tunesmith.generate.structured import Form


@dataclass(frozen=True, slots=True)
class Limits:
    """temperature 0 is greedy; otherwise each row has a generator of its own, made from `seed` and its number."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    tempered: bool = False  # what is told is how likely a token was as it was drawn; else by the model itself
    seed: int = 0
    rows: int = 48  # decoded side by side
    deadline_s: float | None = (
        None  # of the whole call; RunError past it, since a clock must not decide what an answer scores
    )
    form: Form | None = None  # what answers have to be; then what is told is how likely a token was among those allowed
    spent_s: float = 0.0  # of the deadline, by earlier calls of the same asking

    def seed_of(self, row: int) -> int:
        """Of the generator of a row, by its number among all that are asked."""
        return (self.seed * 1_000_003 + row) % 2**63

    def until(self) -> float | None:
        """When a call that begins now must end, by the monotonic clock."""
        return None if self.deadline_s is None else time.monotonic() + self.deadline_s - self.spent_s


def too_late(limits: Limits) -> RunError:
    """The error of a call that ran past its deadline."""
    return RunError(
        f"not all prompts were answered within {limits.deadline_s:g} s (evals.budget_s). Nothing was scored: answers "
        "cut off by a clock would count as wrong. Go on with --resume and a larger --set evals.budget_s=…, or with a "
        "smaller evals.max_cases; what was trained is kept."
    )
