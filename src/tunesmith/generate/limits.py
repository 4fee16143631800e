"""How long and how a prompt is answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """temperature 0 is greedy; otherwise each row has a generator of its own, made from `seed` and its number."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    rows: int = 48  # decoded side by side
    deadline_s: float | None = None  # of the whole call; rows that are not done by then count as not stopped
