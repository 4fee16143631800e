"""Law: a forest learns what its records learn, each token in its own context, however it is shared and cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tunesmith.data.feed import FileFeed
from tunesmith.data.pack import MIN_SHARED_TOKENS, Room, RopeLimit, forest, groups, pack, path_tokens
from tunesmith.types import Forest, Record, Segment

Learned = Counter[tuple[str, tuple[int, ...], float]]  # example, all tokens up to the learned one, weight


def record(name: str, prompt: Sequence[int], reply: Sequence[int], weight: float = 1.0) -> Record:
    tokens = np.array([*prompt, *reply], dtype=np.int64)
    weights = np.array([0.0] * len(prompt) + [weight] * len(reply), dtype=np.float32)
    return Record(name, (Segment(tokens, weights),))


def made_records(seed: int, num: int) -> list[Record]:
    """Records under two system prompts that share a head, and without one; single segments and trees; odd weights."""
    rng = np.random.default_rng(seed)
    head = list(range(100, 100 + MIN_SHARED_TOKENS + 2))
    systems = [[], head + list(range(200, 212)), head + list(range(300, 330)), head]
    found = []
    for i in range(num):
        prompt = systems[rng.integers(len(systems))] + rng.integers(0, 3, rng.integers(1, 30)).tolist()
        root = record(
            f"e{i}", prompt, rng.integers(0, 3, rng.integers(1, 12)).tolist(), float(rng.choice([0.5, 1.0, 2.0]))
        )
        segments = [root.segments[0]]
        if rng.random() < 0.3:
            weights = np.zeros(len(segments[0].tokens), np.float32)
            weights[len(prompt) :] = rng.random(len(weights) - len(prompt)) < 0.5
            segments[0] = Segment(segments[0].tokens, weights)
            for parent in (0, 0, 1):
                tokens = rng.integers(0, 3, rng.integers(1, 9))
                segments.append(Segment(tokens, (rng.random(len(tokens)) < 0.5).astype(np.float32), parent))
        found.append(Record(f"e{i}", tuple(segments)))
    return found


def learned_of_records(records: Sequence[Record]) -> Learned:
    found: Learned = Counter()
    for r in records:
        ends: list[tuple[int, ...]] = []
        for s in r.segments:
            path = ends[s.parent] if s.parent >= 0 else ()
            for token, weight in zip(s.tokens.tolist(), s.weights.tolist()):
                path = (*path, token)
                if weight:
                    found[r.example_id, path, weight] += 1
            ends.append(path)
    return found


def learned_of(batch: Forest) -> Learned:
    """Read from the flat tensors alone; checks positions, order and that shared segments learn nothing."""
    found: Learned = Counter()
    ends: list[tuple[int, ...]] = []
    at = 0
    for s in range(batch.num_segments):
        start, stop, parent, owner = (int(t[s]) for t in (batch.start, batch.stop, batch.parent, batch.owner))
        assert start == at < stop, "segments lie one behind the other, and none is empty"
        assert -1 <= parent < s, "parents first"
        path = ends[parent] if parent >= 0 else ()
        assert batch.positions[start:stop].tolist() == list(range(len(path), len(path) + stop - start))
        for token, weight in zip(batch.tokens[start:stop].tolist(), batch.weights[start:stop].tolist()):
            path = (*path, token)
            if weight:
                found[batch.example_ids[owner], path, weight] += 1
                assert owner >= 0, "a shared prefix learns nothing"
        ends.append(path)
        at = stop
    assert at == batch.num_tokens
    return found


def joined(batches: Sequence[Forest]) -> Learned:
    return sum((learned_of(b) for b in batches), Counter())


@pytest.mark.parametrize("seed", range(30))
def test_a_forest_learns_what_its_records_learn(seed: int) -> None:
    records = made_records(seed, num=1 + seed * 2)
    wanted = learned_of_records(records)
    plain, shared = forest(records, share_prefix=False), forest(records)
    assert learned_of(plain) == wanted
    assert learned_of(shared) == wanted
    assert plain.num_tokens == sum(r.num_tokens for r in records)
    saved = sum((len(g.members) - 1) * g.length for g in groups(records))
    assert shared.num_tokens == plain.num_tokens - saved
    assert sorted(shared.example_ids) == sorted(r.example_id for r in records)


@pytest.mark.parametrize("max_tokens", [1, 50, 200, 10_000])
def test_any_cut_learns_the_same_within_the_budget(max_tokens: int) -> None:
    records = made_records(7, num=80)
    wanted = learned_of_records(records)
    batches = pack(records, max_tokens)
    assert joined(batches) == wanted
    assert sum(float(b.weights.sum()) for b in batches) == pytest.approx(sum(w * n for (_, _, w), n in wanted.items()))
    for batch in batches:
        assert batch.num_tokens <= max_tokens or len(batch.example_ids) == 1
    again = pack(records, max_tokens)
    assert all(torch.equal(a.tokens, b.tokens) and a.example_ids == b.example_ids for a, b in zip(batches, again))


def test_packing_is_tight() -> None:
    records = made_records(3, num=400)
    batches = pack(records, 512)
    used = sum(b.num_tokens for b in batches)
    assert len(batches) <= used / 512 * 1.03 + 1


def first_fit(records: list[Record], max_tokens: int) -> list[list[str]]:
    """As it was written first: every bin is looked at for every record."""
    bins: list[list[int]] = []
    used: list[int] = []
    for group in sorted(groups(records), key=lambda g: (-g.length, g.members[0])):
        has_prefix: set[int] = set()
        for member in sorted(group.members, key=lambda i: (-records[i].num_tokens, i)):
            own = records[member].num_tokens - group.length
            costs = [own + (0 if b in has_prefix else group.length) for b in range(len(bins))]
            place = next((b for b, cost in enumerate(costs) if used[b] + cost <= max_tokens), len(bins))
            if place == len(bins):
                bins.append([])
                used.append(0)
            used[place] += own + (0 if place in has_prefix else group.length)
            has_prefix.add(place)
            bins[place].append(member)
    return [sorted(records[i].example_id for i in members) for members in bins]


@pytest.mark.parametrize("max_tokens", [20, 64, 150, 512])
@pytest.mark.parametrize("seed", range(5))
def test_the_tree_finds_the_bin_that_looking_at_all_finds(seed: int, max_tokens: int) -> None:
    records = made_records(seed, num=150)
    assert [sorted(b.example_ids) for b in pack(records, max_tokens)] == first_fit(records, max_tokens)


def test_mutant_a_bin_that_is_not_the_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    records, found = made_records(3, num=150), Room.first

    def largest(self: Room, tokens: int) -> int | None:
        return None if found(self, tokens) is None else self._most.index(self._most[1], self._size) - self._size

    monkeypatch.setattr(Room, "first", largest)
    assert [sorted(b.example_ids) for b in pack(records, 150)] != first_fit(records, 150)


def test_a_shared_instruction_is_stored_once_and_groups_stay_apart() -> None:
    first, second = list(range(50, 70)), list(range(80, 100))
    records = [record(f"a{i}", [*first, i], [7, 8]) for i in range(5)] + [
        record(f"b{i}", [*second, i], [9]) for i in range(4)
    ]
    batch = forest(records)
    assert batch.num_tokens == 20 + 5 * 3 + 20 + 4 * 2  # two prefixes, and what is each one's own
    assert batch.owner.tolist().count(-1) == 2
    assert batch.parent.tolist() == [-1, 0, 0, 0, 0, 0, -1, 6, 6, 6, 6]


def test_the_better_of_sharing_little_by_many_and_much_by_few_is_taken() -> None:
    """10 tokens shared by all four save 30; two groups that share 40 each save 80."""
    head = list(range(10))
    left, right = head + list(range(100, 130)), head + list(range(200, 230))
    records = [
        record("a", [*left, 1], [7]),
        record("b", [*left, 2], [7]),
        record("c", [*right, 1], [7]),
        record("d", [*right, 2], [7]),
    ]
    assert [(g.members, g.length) for g in groups(records)] == [((0, 1), 40), ((2, 3), 40)]
    many = records[:2] + [record(f"x{i}", [*head, 60 + i], [7]) for i in range(9)]  # 10 * 10 = 100 by all, 40 by two
    assert [(len(g.members), g.length) for g in groups(many)] == [(11, 10)]


def test_learned_tokens_and_the_last_one_are_never_shared() -> None:
    twin = [record("a", list(range(20)), [7, 8]), record("b", list(range(20)), [7, 8])]
    batch = forest(twin)
    assert (batch.stop - batch.start).tolist() == [20, 2, 2]  # the same reply twice is learned twice
    assert learned_of(batch) == learned_of_records(twin)
    context = [Record(n, (Segment(np.arange(20), np.zeros(20, np.float32)),)) for n in ("a", "b")]
    assert (forest(context).stop - forest(context).start).tolist() == [19, 1, 1]
    short = [record("a", [1] * (MIN_SHARED_TOKENS - 1), [7]), record("b", [1] * (MIN_SHARED_TOKENS - 1), [7])]
    assert forest(short).num_segments == 2


def test_mutants_fail_the_law() -> None:
    records = made_records(11, num=40)
    wanted = learned_of_records(records)
    batch = forest(records)

    def changed(**fields: torch.Tensor) -> Forest:
        names = ("tokens", "positions", "weights", "start", "stop", "parent", "owner")
        return Forest(**{n: fields.get(n, getattr(batch, n)) for n in names}, example_ids=batch.example_ids)

    def passes(mutant: Forest) -> bool:
        try:
            return learned_of(mutant) == wanted
        except AssertionError:
            return False

    assert passes(batch)
    assert not passes(changed(weights=batch.weights.roll(1)))
    assert not passes(changed(parent=torch.full_like(batch.parent, -1)))
    assert not passes(changed(positions=torch.arange(batch.num_tokens)))
    assert not passes(changed(owner=batch.owner.roll(1)))
    assert not passes(changed(tokens=batch.tokens + 1))
    assert not passes(forest(records[:-1]))


def test_rope_limits_keep_lengths_apart() -> None:
    records = made_records(5, num=60)
    boundary = int(np.median([path_tokens(r) for r in records]))
    lengths = {r.example_id: path_tokens(r) for r in records}
    mixed = pack(records, 300)
    assert any(len({lengths[i] > boundary for i in b.example_ids}) == 2 for b in mixed), "nothing to keep apart"
    for alone in (False, True):
        batches = pack(records, 300, RopeLimit(boundary, alone))
        assert joined(batches) == learned_of_records(records)
        for batch in batches:
            is_long = {lengths[i] > boundary for i in batch.example_ids}
            assert len(is_long) == 1
            assert not (alone and is_long == {True} and len(batch.example_ids) > 1)


@pytest.mark.parametrize("micro_tokens", [1, 64, 100_000])
def test_the_cut_never_changes_which_examples_an_update_has(micro_tokens: int) -> None:
    records = made_records(9, num=120)
    feed = FileFeed(records, update_tokens=700, micro_tokens=micro_tokens, epochs=2, seed=3)
    reference = FileFeed(records, update_tokens=700, micro_tokens=500, epochs=2, seed=3)
    by_id = {r.example_id: r for r in records}
    for number in range(feed.num_updates):
        batches = feed.update()
        members = [records[i].example_id for i in reference.members(number)]
        assert sorted(i for b in batches for i in b.example_ids) == sorted(members)
        assert joined(batches) == learned_of_records([by_id[i] for i in members])
