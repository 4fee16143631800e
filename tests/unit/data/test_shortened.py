"""What the clock reads in place of a long micro-batch: the same segments, each as much shorter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.data import shortened as module
from tunesmith.data.pack import forest
from tunesmith.data.shortened import shortened
from tunesmith.types import Forest, Pairs, Record, Rollouts, Segment

SIZES = (60, 30, 45)


def segment(num: int, learned: int, parent: int = -1, first: int = 0) -> Segment:
    """Of `num` tokens, of which the last `learned` are learned."""
    weights = np.zeros(num, np.float32)
    weights[num - learned :] = 1
    return Segment(np.arange(first, first + num), weights, parent)


def pair() -> Forest:
    """A prompt with two replies."""
    prompt, *replies = SIZES
    return forest([
        Record("a", (segment(prompt, 0), *(segment(n, n, 0, 100 * k) for k, n in enumerate(replies, 1))))
    ])  # fmt: skip


def holds(short: Forest, whole: Forest) -> None:
    assert short.num_segments == whole.num_segments
    assert short.parent.tolist() == whole.parent.tolist()
    assert short.start.tolist() == [0, *short.stop.tolist()[:-1]]
    assert int(short.stop[-1]) == short.num_tokens == len(short.positions) == len(short.weights)
    for k in range(whole.num_segments):
        some, all_of = (f.tokens[f.start[k] : f.stop[k]].tolist() for f in (short, whole))
        assert (some[0], some[-1]) == (all_of[0], all_of[-1])
        assert [t for t in all_of if t in some] == some
        assert bool(short.num_learned_S[k]) == bool(whole.num_learned_S[k])
        parent = int(short.parent[k])
        begin = int(short.positions[short.stop[parent] - 1]) + 1 if parent >= 0 else 0
        assert short.positions[short.start[k] : short.stop[k]].tolist() == list(range(begin, begin + len(some)))


@pytest.mark.parametrize("most", [8, 27, 100])
def test_every_segment_is_as_much_shorter(most: int) -> None:
    whole = pair()
    short = shortened(whole, most)
    holds(short, whole)
    assert short.num_tokens == pytest.approx(most, abs=3)
    share = torch.tensor(SIZES) * most / sum(SIZES)
    assert (short.stop - short.start).float() == pytest.approx(share, abs=1.5)
    assert shortened(whole, sum(SIZES)) is whole


def test_a_learned_token_in_the_middle_stays() -> None:
    """Mutant: places that are evenly spaced, and no others."""
    weights = np.zeros(50, np.float32)
    weights[23] = 1
    whole = forest([Record("a", (Segment(np.arange(50), weights),))])
    assert int(shortened(whole, 4).num_learned_S[0]) == 1


def test_what_hangs_on_segments_and_on_learned_tokens_goes_along() -> None:
    pairs = Pairs(torch.tensor([[1, 2]]), torch.tensor([0.0, -3.0, -4.0]))
    whole = pair()
    assert shortened(Forest(**{**parts(whole), "extra": pairs}), 20).extra is pairs
    learned = whole.weights != 0
    rolled = Rollouts(-whole.tokens[learned].float(), whole.tokens[learned].float(), age=2)
    short = shortened(Forest(**{**parts(whole), "extra": rolled}), 20)
    assert isinstance(short.extra, Rollouts)
    assert short.extra.age == 2
    assert short.extra.advantage.tolist() == short.tokens[short.weights != 0].tolist()
    assert short.extra.old_logp.tolist() == [-t for t in short.extra.advantage.tolist()]


def parts(whole: Forest) -> dict[str, object]:
    names = ("tokens", "positions", "weights", "start", "stop", "parent", "owner", "example_ids")
    return {name: getattr(whole, name) for name in names}


def test_mutant_that_keeps_the_beginning_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "places", lambda learned, num: torch.arange(max(2, num)))
    with pytest.raises(AssertionError):
        holds(shortened(pair(), 27), pair())
