"""What fits into memory, as running out of it has shown: the same examples in smaller pieces.

The result does not depend on the cut but for the last bits, so every cut is handed to `changed`, which writes it down,
and a resume is given it back: it makes the same pieces.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tunesmith.data.halves import halves
from tunesmith.engine.memory import give_back_freed_memory
from tunesmith.errors import is_memory
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits
from tunesmith.types import Forest

Found = TypeVar("Found")


def unheard(what: str) -> None:
    return


@dataclass(slots=True)
class Cuts:
    """`tokens`: (update, most tokens of a micro-batch from that update on), the latest last."""

    tokens: list[tuple[int, int]] = field(default_factory=list)
    rows: int | None = None  # most answers written side by side
    scored_tokens: int | None = None  # most tokens that are scored at once
    changed: Callable[[str], None] = unheard  # told what happened, in words

    def most(self, update: int) -> int | None:
        return next((tokens for first, tokens in reversed(self.tokens) if first <= update), None)

    def cut(self, batches: Sequence[Forest], update: int) -> list[Forest]:
        """The micro-batches of an update, none larger than `most` unless it is one example."""
        most = self.most(update)
        return list(batches) if most is None else [p for b in batches for p in pieces(b, most)]

    def halve(self, batches: Sequence[Forest], update: int) -> bool:
        """From this update on, at most half of its largest micro-batch. False where that is one example already."""
        largest = max(self.cut(batches, update), key=lambda b: b.num_tokens)
        if halves(largest) is None:
            return False
        self.tokens.append((update, largest.num_tokens // 2))
        self.changed(f"memory ran out in update {update}: from here on micro-batches have at most "
                     f"{largest.num_tokens // 2} tokens, which changes no example and no gradient")  # fmt: skip
        return True

    def learned(self, batches: Sequence[Forest], update: int, work: Callable[[list[Forest]], Found]) -> Found:
        """`work` on the micro-batches of an update, from the first one again where memory runs out."""
        while True:
            try:
                return work(self.cut(batches, update))
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error):
                    raise
                failed = without_frames(error)
            give_back()
            if not self.halve(batches, update):  # which takes memory too
                raise failed

    def scored(self, batch: Forest, work: Callable[[Forest], Tensor]) -> Tensor:
        """`work` gives [L] of a forest; in halves where memory runs out."""
        if self.scored_tokens is None or batch.num_tokens <= self.scored_tokens or halves(batch) is None:
            try:
                return work(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error) or halves(batch) is None:
                    raise
            give_back()
            self.scored_tokens = batch.num_tokens // 2
            self.changed(f"memory ran out: at most {self.scored_tokens} tokens are scored at once")
        both = halves(batch)
        assert both is not None
        found: dict[int, Tensor] = {}
        for half in both:
            logp_L = self.scored(half.forest, work)
            found |= dict(zip(half.tokens[learned_tokens(half.forest)].tolist(), logp_L))
        return torch.stack([found[k] for k in learned_tokens(batch).tolist()])

    def answered(self, limits: Limits, kept: Kept | None, work: Callable[[Limits, Kept], Found]) -> Found:
        """`work` answers prompts; with half the rows side by side where memory runs out. What is done is not asked
        again."""
        known = dict(kept.known) if kept else {}

        def keep(fresh: Any) -> None:
            known.update(fresh)
            if kept is not None:
                kept.keep(fresh)

        while True:
            rows = limits.rows if self.rows is None else min(limits.rows, self.rows)
            try:
                return work(replace(limits, rows=rows), Kept(known, keep))
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error) or rows == 1:
                    raise
            give_back()
            self.rows = rows // 2
            self.changed(f"memory ran out: from here on {self.rows} answers are written side by side")


def pieces(batch: Forest, most: int) -> list[Forest]:
    both = halves(batch) if batch.num_tokens > most else None
    return [batch] if both is None else [p for half in both for p in pieces(half.forest, most)]


def learned_tokens(batch: Forest) -> Tensor:
    """[L] indices of the tokens that `scored` asks about: learned, and no root's first."""
    is_learned = batch.weights != 0
    is_learned[batch.start[batch.parent < 0]] = False
    return is_learned.nonzero()[:, 0]


def without_frames(error: BaseException) -> BaseException:
    """The error alone: frames of the failed attempt hold its tensors."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def give_back() -> None:
    """What the failed attempt held, before the next one; its frames must be out of scope. What is freed from now on
    goes back too: kept memory is in pieces, and the next attempt may find none large enough."""
    gc.collect()
    give_back_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
