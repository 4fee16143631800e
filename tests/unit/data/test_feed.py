"""The feed: every example once an epoch, updates of nearly equal tokens, a position that is data."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tunesmith.data.feed import FileFeed
from tunesmith.data.records import Records, replies_of, sizes_of
from tunesmith.data.stored import Chosen, Joined
from tunesmith.errors import DataError, RunError
from tunesmith.types import Record, Segment


def records(num: int, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 60, num)
    return [
        Record(f"e{i}", (Segment(rng.integers(0, 9, n), np.r_[np.zeros(n - 2, np.float32), np.ones(2, np.float32)]),))
        for i, n in enumerate(lengths)
    ]


class NeverRead(Records):
    def _one(self, at: int) -> Record:
        raise AssertionError("read to learn its size")


def test_sizes_of_stored_records_are_known_without_reading_them() -> None:
    """Also where rows of data.replay stand behind them."""
    first, then, at = records(9), records(5, seed=1), np.array([4, 0, 4])
    stored, general = NeverRead(), NeverRead()
    for record in first:
        stored.append(record)
    for record in then:
        general.append(record)
    wanted = sizes_of([*first, *(then[n] for n in at)])
    found = sizes_of(Joined(stored, Chosen(general, at)))
    assert [size.tolist() for size in found] == [size.tolist() for size in wanted]


def test_replies_are_learned_tokens_that_stand_together() -> None:
    """By hand: replies of 2, 1 and 3 behind prompts, and one of 2 on a branch; a weight below 1 is learned too."""
    weights = [0, 1, 1, 0, 0.5, 0, 1, 1, 1], [1, 1, 0], [0, 0], []
    parents = -1, 0, 0, 0
    parts = [Segment(np.zeros(len(w), np.int64), np.array(w, np.float32), p) for w, p in zip(weights, parents)]
    dialogue, [one] = Record("d", tuple(parts)), records(1)
    assert replies_of(dialogue) == [2, 1, 3, 2]
    assert [size.tolist() for size in sizes_of([dialogue, one])] == [
        [14, one.num_tokens],
        [8, 2],
        [12, one.num_tokens],
        [3, 2],
    ]


def ids(feed: FileFeed) -> list[list[str]]:
    return [[i for batch in feed.update() for i in batch.example_ids] for _ in range(feed.num_updates)]


def test_each_epoch_gives_every_example_once_in_another_order() -> None:
    feed = FileFeed(records(100), update_tokens=300, micro_tokens=100, epochs=3, seed=1)
    updates = ids(feed)
    per_epoch = feed.num_updates // 3
    epochs = [[i for update in updates[e * per_epoch : (e + 1) * per_epoch] for i in update] for e in range(3)]
    assert all(sorted(epoch) == sorted(f"e{i}" for i in range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    with pytest.raises(RunError, match=f"all of its {feed.num_updates} updates"):
        feed.update()


def test_updates_are_nearly_equal_and_as_many_as_asked() -> None:
    found = records(500)
    total = sum(r.num_tokens for r in found)
    feed = FileFeed(found, update_tokens=1000, micro_tokens=400, epochs=1, seed=0)
    assert feed.num_updates == round(total / 1000)
    share, longest = total / feed.num_updates, max(r.num_tokens for r in found)
    sizes = [sum(found[i].num_tokens for i in feed.members(u)) for u in range(feed.num_updates)]
    assert all(abs(size - share) <= longest for size in sizes)
    assert (feed.shape()["update_tokens_min"], feed.shape()["update_tokens_max"]) == (min(sizes), max(sizes))
    assert FileFeed(found, update_tokens=10**9, micro_tokens=400, epochs=2, seed=0).num_updates == 2
    tiny = FileFeed(found[:3], update_tokens=1, micro_tokens=400, epochs=1, seed=0)
    assert [len(u) for u in ids(tiny)] == [1, 1, 1]


def test_examples_that_a_short_run_sees_are_counted_once() -> None:
    """Mutant: a count by updates times examples per update, which is wrong where examples differ in length."""
    feed = FileFeed(records(100), update_tokens=300, micro_tokens=100, epochs=2, seed=1)
    per_epoch = feed.num_updates // 2
    for num in (1, per_epoch - 1, per_epoch, per_epoch + 1):
        assert feed.num_seen(num) == len({i for u in range(num) for i in feed.members(u)})
    assert feed.num_seen(per_epoch - 1) < 100


def test_position_is_data() -> None:
    make = lambda: FileFeed(records(60), update_tokens=200, micro_tokens=100, epochs=2, seed=5)
    whole = ids(make())
    for stop in range(len(whole)):
        first = make()
        for _ in range(stop):
            first.update()
        second = make()
        second.load(json.loads(json.dumps(first.state())))
        assert [[i for b in second.update() for i in b.example_ids] for _ in range(stop, len(whole))] == whole[stop:]


def test_a_state_of_other_data_or_settings_is_refused() -> None:
    settings = {"update_tokens": 200, "micro_tokens": 100, "epochs": 2, "seed": 5}
    state = FileFeed(records(60), **settings).state()
    FileFeed(records(60), **{**settings, "micro_tokens": 50}).load(state)  # only the cut
    others = [
        FileFeed(records(60), **{**settings, key: settings[key] + 1}) for key in ("update_tokens", "epochs", "seed")
    ]
    same = [(r.example_id, r.segments[0].tokens, r.segments[0].weights) for r in records(60)]
    relearned = [Record(name, (Segment(tokens, weights * 2),)) for name, tokens, weights in same]
    retokenised = [Record(name, (Segment(tokens + 1, weights),)) for name, tokens, weights in same]
    for found in (relearned, retokenised, records(60)[::-1], records(60, seed=1)):
        others.append(FileFeed(found, **settings))
    for feed in others:
        with pytest.raises(DataError, match="not those of the saved run"):
            feed.load(state)


def test_another_process_draws_the_same() -> None:
    feed = FileFeed(records(60), update_tokens=200, micro_tokens=100, epochs=2, seed=5)
    code = (
        "import sys, json; sys.path.insert(0, '.')\n"
        "from tests.unit.data.test_feed import FileFeed, ids, records\n"
        "print(json.dumps(ids(FileFeed(records(60), update_tokens=200, micro_tokens=100, epochs=2, seed=5))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ids(feed)


def test_no_records_is_an_error() -> None:
    with pytest.raises(DataError, match="no example to learn from"):
        FileFeed([], 100, 100, 1, 0)
