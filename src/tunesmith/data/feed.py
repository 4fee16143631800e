"""The feed of a file: which records are in which update, as data that can be saved and restored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.pack import RopeLimit, pack, path_tokens
from tunesmith.data.twins import doubled
from tunesmith.errors import DataError, RunError
from tunesmith.types import Forest, Record


@dataclass(frozen=True, slots=True)
class Laying:
    """How the records of an update are laid into forests; which these are does not depend on it."""

    twice: bool = False  # each as two roots, for R-Drop
    share_prefix: bool = True  # a prefix of several examples is stored once


class FileFeed:
    """Each epoch is a permutation drawn from (seed, epoch), cut into updates of nearly equal numbers of tokens.

    Which examples are in an update depends on the records, `update_tokens`, `epochs` and `seed`; `micro_tokens` and
    `rope` only cut it.
    """

    def __init__(
        self,
        records: Sequence[Record],
        update_tokens: int,
        micro_tokens: int,
        epochs: int,
        seed: int,
        rope: RopeLimit | None = None,
        laying: Laying = Laying(),
    ) -> None:
        if not records:
            raise DataError("there is no example to learn from: all were dropped or moved. See `tunesmith audit`.")
        assert min(update_tokens, micro_tokens, epochs) > 0, "update_tokens, micro_tokens and epochs must be above 0"
        self._records = list(records)
        self._lengths = np.array(
            [r.num_tokens for r in records], dtype=np.int64
        )  # before sharing: the cut must not matter
        self._micro_tokens, self._epochs, self._seed, self._rope = micro_tokens, epochs, seed, rope
        wanted = max(1, round(int(self._lengths.sum()) / update_tokens))
        self._per_epoch = min(wanted, len(self._records))
        self._laying = laying
        self._position = 0
        self._consumed = ""  # SHA-256 over the ids of all examples given so far, in their order
        self._order: tuple[int, list[np.ndarray]] | None = None
        self.digest = self._digest(update_tokens)

    @property
    def num_updates(self) -> int:
        return self._per_epoch * self._epochs

    def num_seen(self, num_updates: int) -> int:
        """How many examples the first `num_updates` updates hold, each counted once."""
        whole = num_updates >= self._per_epoch
        return len(self._records) if whole else sum(len(part) for part in self._cut(0)[:num_updates])

    @property
    def updates_per_epoch(self) -> int:
        return self._per_epoch

    def update(self) -> list[Forest]:
        """The micro-batches of the next update. RunError when all have been given."""
        if self._position >= self.num_updates:
            raise RunError(f"the feed has given all of its {self.num_updates} updates. Train for more epochs to go on.")
        members = self.members(self._position)
        self._position += 1
        said = "\n".join([self._consumed, *(self._records[i].example_id for i in members)])
        self._consumed = hashlib.sha256(said.encode()).hexdigest()
        return self._laid(members)

    def _laid(self, members: Sequence[int]) -> list[Forest]:
        records = [doubled(self._records[i]) if self._laying.twice else self._records[i] for i in members]
        return pack(records, self._micro_tokens, self._rope, share_prefix=self._laying.share_prefix)

    def heaviest(self) -> list[Forest]:
        """The micro-batches of the first epoch's update with most tokens, and of the longest example where that is
        longer than all of these."""
        parts = self._cut(0)
        heaviest = max(parts, key=lambda part: int(self._lengths[part].sum()))
        batches, longest = self._laid(list(heaviest)), self._laid([int(self._lengths.argmax())])
        if longest[0].num_tokens > max(batch.num_tokens for batch in batches):
            batches += longest
        return batches

    def members(self, update: int) -> list[int]:
        """Which records (by index) are in an update."""
        epoch, inside = divmod(update, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._cut(epoch)
        return [int(i) for i in self._order[1][inside]]

    def _cut(self, epoch: int) -> list[np.ndarray]:
        """The epoch's permutation in `_per_epoch` runs: each ends where the tokens so far come nearest to its share."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        order = generator.permutation(len(self._records))
        ends = np.cumsum(self._lengths[order])
        cuts: list[int] = []
        for i in range(1, self._per_epoch):
            share = ends[-1] * i / self._per_epoch
            at = int(np.searchsorted(ends, share))
            nearest = at if at > 0 and share - ends[at - 1] < ends[at] - share else at + 1
            first = (cuts[-1] if cuts else 0) + 1  # no update is empty
            last = len(order) - (self._per_epoch - i)
            cuts.append(min(max(nearest, first), last))
        return np.split(order, cuts)

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "digest": self.digest, "consumed": self._consumed}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved position. Refused for other data or settings: the rest would be another run's."""
        if state["digest"] != self.digest:
            raise DataError(
                "the training data, train.epochs, train.update_tokens or the seed are not those of the saved run. "
                "Restore them to resume, or start a new run."
            )
        self._position, self._consumed = int(state["position"]), str(state["consumed"])

    def shape(self) -> dict[str, Any]:
        """Facts for the plan; tokens are counted before sharing, for one epoch."""
        times = 2 if self._laying.twice else 1
        per_update = [times * int(self._lengths[part].sum()) for part in self._cut(0)]
        return {
            "num_examples": len(self._records),
            "num_updates": self.num_updates,
            "updates_per_epoch": self._per_epoch,
            "epochs": self._epochs,
            "tokens": times * int(self._lengths.sum()),
            "learned_tokens": sum(r.num_learned for r in self._records),
            "longest_tokens": times * max(path_tokens(r) for r in self._records),
            "update_tokens_min": min(per_update),
            "update_tokens_max": max(per_update),
        }

    def _digest(self, update_tokens: int) -> str:
        """What decides which example is in which update, and what it is."""
        hashed = hashlib.sha256(repr((update_tokens, self._epochs, self._seed)).encode())
        for record in self._records:
            hashed.update(record.example_id.encode() + b"\0")
            for segment in record.segments:
                hashed.update(np.int64(segment.parent).tobytes() + np.int64(len(segment.tokens)).tobytes())
                hashed.update(segment.tokens.astype(np.int64).tobytes() + segment.weights.astype(np.float32).tobytes())
        return hashed.hexdigest()
