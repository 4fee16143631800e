"""Records to forests. Nothing is padded, and a prefix that several records share (the task's instruction) is stored
once.

Only tokens of weight 0 are shared, and never all of a record's root, so that each record keeps a segment of its own and
its first learned token is predicted from the end of the shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from tunesmith.data.tree import common_length
from tunesmith.types import Forest, Record, RopeLimit, Segment

NO_ROOM = -(2**62)
MIN_SHARED_TOKENS = 8  # a shorter common prefix (one begin-of-text token, say) is not worth a segment of its own


@dataclass(frozen=True, slots=True)
class Group:
    """Records (by index) that share their first `length` tokens; length 0: nothing is shared."""

    members: tuple[int, ...]
    length: int


def path_tokens(record: Record) -> int:
    """Tokens on the record's longest way from root to leaf: the context it needs."""
    ends: list[int] = []
    for segment in record.segments:
        ends.append((ends[segment.parent] if segment.parent >= 0 else 0) + len(segment.tokens))
    return max(ends)


def _shareable(record: Record) -> np.ndarray:
    """The tokens of the record's root that may be stored outside of it: unlearned, and not the last one."""
    root = record.segments[0]
    learned = np.flatnonzero(root.weights)
    limit = min(int(learned[0]) if learned.size else len(root.tokens), len(root.tokens) - 1)
    return root.tokens[:limit]


def groups(records: Sequence[Record]) -> list[Group]:
    """The grouping that saves most tokens when each record hangs under at most one shared prefix.

    In the sorted prefixes, records with a common prefix of some length are an interval. An interval either shares its
    common prefix, or is cut where the common prefix is shortest and its parts decide for themselves; the better of the
    two, from the inside out.
    """
    prefixes = [_shareable(r) if _has_one_root(r) else r.segments[0].tokens[:0] for r in records]
    order = sorted(range(len(records)), key=lambda i: (prefixes[i].astype(">i8").tobytes(), i))
    common = [common_length(prefixes[a], prefixes[b]) for a, b in pairwise(order)]
    # Stack of open intervals of the sorted order: (common length, first position, groups inside, tokens they save)
    stack: list[tuple[int, int, list[Group], int]] = []
    closed: list[Group] = []
    for position, length in enumerate([*common, 0]):
        begin, inside, saved = position, [Group((order[position],), 0)], 0
        while stack and stack[-1][0] > length:
            depth, first, parts, part_saved = stack.pop()
            parts, part_saved = parts + inside, part_saved + saved
            begin, inside, saved = first, *_better(order[first : position + 1], depth, parts, part_saved)
        if stack and stack[-1][0] == length:
            depth, first, parts, part_saved = stack.pop()
            stack.append((depth, first, parts + inside, part_saved + saved))
        elif length > 0:
            stack.append((length, begin, inside, saved))
        else:
            closed += inside
    alone = [i for group in closed if not group.length for i in group.members]
    shared = [Group(tuple(sorted(g.members)), g.length) for g in closed if g.length]
    return sorted([*shared, *(Group((i,), 0) for i in alone)], key=lambda g: g.members[0])


def _better(members: list[int], depth: int, parts: list[Group], saved: int) -> tuple[list[Group], int]:
    here = (len(members) - 1) * depth
    if depth >= MIN_SHARED_TOKENS and here > saved:
        return [Group(tuple(members), depth)], here
    return parts, saved


def _has_one_root(record: Record) -> bool:
    return all(segment.parent >= 0 for segment in record.segments[1:])


def forest(records: Sequence[Record], *, share_prefix: bool = True) -> Forest:
    """All records as one flat batch, in the order of their groups. A record that is a tree keeps its structure."""
    assert records, "a forest without records"
    assert all(len(s.tokens) for r in records for s in r.segments), "an empty segment"
    plan = groups(records) if share_prefix else [Group((i,), 0) for i in range(len(records))]
    segments: list[Segment] = []
    owner: list[int] = []
    ids: list[str] = []
    for group in plan:
        shared = -1
        if group.length:
            shared = len(segments)
            prefix = records[group.members[0]].segments[0].tokens[: group.length]
            segments.append(Segment(prefix, np.zeros(group.length, np.float32)))
            owner.append(-1)
        for member in group.members:
            base = len(segments)
            for segment in records[member].segments:
                parent = segment.parent + base if segment.parent >= 0 else -1
                if parent < 0 and shared >= 0:
                    segment = Segment(segment.tokens[group.length :], segment.weights[group.length :])
                    parent = shared
                segments.append(replace(segment, parent=parent))
                owner.append(len(ids))
            ids.append(records[member].example_id)
    return _flat(segments, owner, tuple(ids))


def _flat(segments: list[Segment], owner: list[int], ids: tuple[str, ...]) -> Forest:
    lengths = np.array([len(s.tokens) for s in segments])
    stop = np.cumsum(lengths)
    begin: list[int] = []  # position of each segment's first token
    for segment in segments:
        begin.append(begin[segment.parent] + len(segments[segment.parent].tokens) if segment.parent >= 0 else 0)
    positions = np.concatenate([np.arange(b, b + n) for b, n in zip(begin, lengths)])
    return Forest(
        tokens=torch.from_numpy(np.concatenate([s.tokens for s in segments]).astype(np.int64)),
        positions=torch.from_numpy(positions.astype(np.int64)),
        weights=torch.from_numpy(np.concatenate([s.weights for s in segments]).astype(np.float32)),
        start=torch.from_numpy(stop - lengths),
        stop=torch.from_numpy(stop),
        parent=torch.tensor([s.parent for s in segments], dtype=torch.int64),
        owner=torch.tensor(owner, dtype=torch.int64),
        example_ids=ids,
    )


def pack(
    records: Sequence[Record], max_tokens: int, rope: RopeLimit | None = None, *, share_prefix: bool = True
) -> list[Forest]:
    """Few forests of at most `max_tokens` tokens, counted after sharing; a longer record has one of its own. Order is
    deterministic.
    """
    assert max_tokens > 0, "max_tokens must be above 0"
    if rope is None:
        return _packed(list(records), max_tokens, share_prefix)
    within = [r for r in records if path_tokens(r) <= rope.boundary]
    beyond = [r for r in records if path_tokens(r) > rope.boundary]
    if rope.alone:
        return _packed(within, max_tokens, share_prefix) + [forest([r]) for r in beyond]
    return _packed(within, max_tokens, share_prefix) + _packed(beyond, max_tokens, share_prefix)


def _packed(records: list[Record], max_tokens: int, share_prefix: bool) -> list[Forest]:
    """First fit, longest first, group by group. A bin's own grouping saves at least what the plan of all records
    counted on.
    """
    bins: list[list[int]] = []
    room = Room()
    plan = groups(records) if share_prefix else [Group((i,), 0) for i in range(len(records))]
    order = sorted(plan, key=lambda g: (-g.length, g.members[0]))
    for group in order:
        beside = Room()  # of bins that hold the prefix
        for member in sorted(group.members, key=lambda i: (-records[i].num_tokens, i)):
            own = records[member].num_tokens - group.length
            places = (beside.first(own), room.first(own + group.length))
            place = min((p for p in places if p is not None), default=len(bins))
            opens = place == len(bins)
            if opens:
                bins.append([])
            free = (max_tokens if opens else room.of(place)) - own - (0 if beside.has(place) else group.length)
            room.put(place, free)
            if group.length:
                beside.put(place, free)
            bins[place].append(member)
    return [forest([records[i] for i in sorted(members)], share_prefix=share_prefix) for members in bins]


class Room:
    """Free tokens of numbered bins, the largest of each half above the two: the first with room is found in as many
    steps as a number of bins has digits."""

    def __init__(self) -> None:
        self._size = 1
        self._most = [NO_ROOM, NO_ROOM]  # a tree: node n stands above 2n and 2n + 1, bins begin at `_size`

    def of(self, place: int) -> int:
        return self._most[self._size + place]

    def has(self, place: int) -> bool:
        return place < self._size and self.of(place) != NO_ROOM

    def put(self, place: int, free: int) -> None:
        while place >= self._size:
            leaves = self._most[self._size :]
            self._size *= 2
            self._most = [NO_ROOM] * self._size + leaves + [NO_ROOM] * len(leaves)
            for node in range(self._size - 1, 0, -1):
                self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])
        node = self._size + place
        self._most[node] = max(free, NO_ROOM + 1)
        while node > 1:
            node //= 2
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])

    def first(self, tokens: int) -> int | None:
        """The first bin that has room for so many."""
        if self._most[1] < tokens:
            return None
        node = 1
        while node < self._size:
            node = 2 * node + (self._most[2 * node] < tokens)
        return node - self._size
