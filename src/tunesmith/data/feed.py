"""The feed of a file: which records are in which update, as data that can be saved and restored."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from tunesmith.data.mixture import Mixture, Share
from tunesmith.data.pack import RopeLimit, pack
from tunesmith.data.records import sizes_of
from tunesmith.data.twins import doubled
from tunesmith.errors import DataError, RunError
from tunesmith.types import Forest, Record


def unchanged(record: Record, epoch: int) -> Record:
    return record


@dataclass(frozen=True, slots=True)
class Laying:
    """How the records of an update are laid into forests; which these are does not depend on it."""

    twice: bool = False  # each as two roots, for R-Drop
    share_prefix: bool = True  # a prefix of several examples is stored once
    redrawn: Callable[[Record, int], Record] = unchanged  # a record as an epoch has it, of the same size in each
    rope: RopeLimit | None = None  # which lengths may stand in one forest


@dataclass(frozen=True, slots=True)
class Cut:
    """An epoch's order of the records, and where its updates begin in it."""

    order: np.ndarray  # [records] uint32
    bounds: np.ndarray  # [updates + 1] int64

    def part(self, update: int) -> list[int]:
        found: list[int] = self.order[self.bounds[update] : self.bounds[update + 1]].tolist()
        return found


class FileFeed:
    """Each epoch is a permutation drawn from (seed, epoch), cut into updates of nearly equal numbers of tokens.

    Which examples are in an update depends on the records, `mixture`, `update_tokens`, `epochs` and `seed`;
    `micro_tokens` and `laying` only cut it. Of a mixture an epoch holds what it draws, else all records.
    """

    told: Mapping[str, float] = MappingProxyType({})  # all of it stands in the file

    def __init__(
        self,
        records: Sequence[Record],
        update_tokens: int,
        micro_tokens: int,
        epochs: int,
        seed: int,
        laying: Laying = Laying(),
        mixture: Mixture | None = None,
    ) -> None:
        if not records:
            raise DataError("there is no example to learn from: all were dropped or moved. See `tunesmith audit`.")
        assert min(update_tokens, micro_tokens, epochs) > 0, "update_tokens, micro_tokens and epochs must be above 0"
        self._records, self._sizes = records, sizes_of(records)
        self._lengths = self._sizes.tokens  # before sharing: the cut must not matter
        self._micro_tokens, self._epochs, self._seed = micro_tokens, epochs, seed
        self._mixture = mixture
        first = self._drawn(0)
        wanted = max(1, round(int(self._lengths[first].sum()) / update_tokens))
        self._per_epoch = min(wanted, len(first))
        self._laying = laying
        self._position = 0
        self._consumed = ""  # SHA-256 over the ids of all examples given so far, in their order
        self._order: tuple[int, Cut] | None = None
        self._update_tokens = update_tokens

    @property
    def num_updates(self) -> int:
        return self._per_epoch * self._epochs

    def num_seen(self, num_updates: int) -> int:
        """How many examples the first `num_updates` updates hold, each counted once."""
        return len(self._seen(num_updates))

    def seen(self, num_updates: int) -> Iterator[Record]:
        """The records that the first `num_updates` updates hold, each once."""
        return (self._records[i] for i in self._seen(num_updates).tolist())

    def _seen(self, num_updates: int) -> np.ndarray:
        whole = num_updates if self._mixture else min(num_updates, self._per_epoch)  # else each epoch has all of them
        return np.unique(self._given(whole))

    def shares(self, num_updates: int) -> list[Share]:
        """What each source came to in the first `num_updates` updates; none where nothing is mixed."""
        return self._mixture.shares(self._given(num_updates), self._sizes) if self._mixture else []

    def _given(self, num_updates: int) -> np.ndarray:
        """Numbers of the records of the first updates, in their order, as often as they stand there."""
        whole, rest = divmod(num_updates, self._per_epoch)
        orders = [self._cut(epoch).order for epoch in range(whole)]
        last = self._cut(whole)
        return np.concatenate([*orders, last.order[: last.bounds[rest]]])

    def _drawn(self, epoch: int) -> np.ndarray:
        """Which records an epoch holds."""
        return np.arange(len(self._records), dtype=np.uint32) if self._mixture is None else self._mixture.drawn(epoch)

    @property
    def updates_per_epoch(self) -> int:
        return self._per_epoch

    def update(self) -> list[Forest]:
        """The micro-batches of the next update. RunError when all have been given."""
        if self._position >= self.num_updates:
            raise RunError(f"the feed has given all of its {self.num_updates} updates. Train for more epochs to go on.")
        epoch, members = self._position // self._per_epoch, self.members(self._position)
        self._position += 1
        said = "\n".join([self._consumed, *(self._records[i].example_id for i in members)])
        self._consumed = hashlib.sha256(said.encode()).hexdigest()
        return self._laid(members, epoch)

    def _laid(self, members: Sequence[int], epoch: int = 0) -> list[Forest]:
        records = [self._laying.redrawn(self._records[i], epoch) for i in members]
        records = [doubled(record) for record in records] if self._laying.twice else records
        return pack(records, self._micro_tokens, self._laying.rope, share_prefix=self._laying.share_prefix)

    def heaviest(self) -> list[Forest]:
        """The micro-batches of the first epoch's update with most tokens, and of the longest example where that is
        longer than all of these."""
        cut = self._cut(0)
        heaviest = cut.part(int(self._tokens(cut).argmax()))
        batches, longest = self._laid(heaviest), self._laid([int(self._lengths.argmax())])
        if longest[0].num_tokens > max(batch.num_tokens for batch in batches):
            batches += longest
        return batches

    def members(self, update: int) -> list[int]:
        """Which records (by index) are in an update."""
        epoch, inside = divmod(update, self._per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._cut(epoch)
        return self._order[1].part(inside)

    def _tokens(self, cut: Cut) -> np.ndarray:
        """Of each update, before sharing."""
        return np.add.reduceat(self._lengths[cut.order], cut.bounds[:-1], dtype=np.int64)

    def _cut(self, epoch: int) -> Cut:
        """The epoch's permutation in `_per_epoch` runs: each ends where the tokens so far come nearest to its share."""
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        order = self._drawn(epoch)
        generator.shuffle(order)
        ends = np.cumsum(self._lengths[order], dtype=np.int64)
        cuts = array("q")
        for i in range(1, self._per_epoch):
            share = ends[-1] * i / self._per_epoch
            at = int(np.searchsorted(ends, share))
            nearest = at if at > 0 and share - ends[at - 1] < ends[at] - share else at + 1
            first = (cuts[-1] if cuts else 0) + 1  # no update is empty
            last = len(order) - (self._per_epoch - i)
            cuts.append(min(max(nearest, first), last))
        return Cut(order, np.array([0, *cuts, len(order)]))

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
        cut = self._cut(0)
        per_update = times * self._tokens(cut)
        return {
            "num_examples": self.num_seen(self.num_updates),
            "num_updates": self.num_updates,
            "updates_per_epoch": self._per_epoch,
            "epochs": self._epochs,
            "tokens": times * int(self._lengths[cut.order].sum()),
            "learned_tokens": int(self._sizes.learned[cut.order].sum()),
            "longest_tokens": times * int(self._sizes.path.max()),
            "update_tokens_min": int(per_update.min()),
            "update_tokens_max": int(per_update.max()),
        }

    @cached_property
    def digest(self) -> str:
        """What decides which example is in which update, and what it is."""
        mixed = () if self._mixture is None else (self._mixture,)
        hashed = hashlib.sha256(repr((self._update_tokens, self._epochs, self._seed, *mixed)).encode())
        for record in self._records:
            hashed.update(record.example_id.encode() + b"\0")
            for segment in record.segments:
                hashed.update(np.int64(segment.parent).tobytes() + np.int64(len(segment.tokens)).tobytes())
                hashed.update(segment.tokens.astype(np.int64).tobytes() + segment.weights.astype(np.float32).tobytes())
        return hashed.hexdigest()
