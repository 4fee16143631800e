"""Law: near copies never stand on two sides, whatever is added; the newest rows are the test, or each label has its
share."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from tunesmith.data import split as splitting
from tunesmith.data.drawn import Drawing
from tunesmith.data.ingest import example_id
from tunesmith.data.split import Split, key, split
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message, Reply, Target

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnoprstuvwz", k=6)) for i in range(4000)]


def example(
    prompt: str, at: int, target: Target | None = None, when: float | None = None, group: str | None = None
) -> Example:
    messages, target = (Message("user", prompt),), Label("a") if target is None else target
    source = f"data.jsonl:{at}"
    return Example(f"{example_id(messages, target)}-{at}", messages, target, group, source=source, when=when)


def sentence(rng: random.Random, num: int = 12) -> list[str]:
    return rng.sample(WORDS, num)


def edited(rng: random.Random, words: list[str]) -> str:
    """One word of twelve is another: 11 of 13 words are in both."""
    found = list(words)
    found[rng.randrange(len(found))] = rng.choice(WORDS)
    return " ".join(found)


def sides(found: Split) -> dict[str, str]:
    """Prompt -> side."""
    return {e.prompt[0].content: name for name in splitting.SPLITS for e in getattr(found, name)}


def crossing(pairs: list[tuple[str, str]], found: Split) -> int:
    side = sides(found)
    return sum(one in side and other in side and side[one] != side[other] for one, other in pairs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("by", ["content", "time", "label"])
def test_planted_twins_never_cross(seed: int, by: str) -> None:
    """500 pairs, half edited by a word and half by digits. Mutant: rows drawn one by one."""
    rng, pairs = random.Random(seed), []
    for at in range(500):
        words = sentence(rng)
        one = " ".join([*words, str(at)])
        pairs.append((one, " ".join([*words, "7"]) if at % 2 else edited(rng, [*words, str(at)])))
    texts = [text for pair in pairs for text in pair]
    rng.shuffle(texts)
    rows = [example(text, at, Label(rng.choice("abc")), float(at)) for at, text in enumerate(texts)]
    found = split(rows, 0.1, 0.2, str(seed), drawing=Drawing(by))
    assert crossing(pairs, found) == 0
    assert len(found.test) / 1000 == pytest.approx(0.2, abs=0.05)
    assert found.num_together >= 990  # of 1,000: a word drawn may be the one that stood there
    assert crossing(pairs, split(rows, 0.1, 0.2, str(seed), drawing=Drawing(by, near_together=False))) > 100


def test_what_has_another_answer_is_no_copy() -> None:
    """Mutant: prompts alone are compared, and "what is X" takes "what causes X" along."""
    rng = random.Random(0)
    words = " ".join(sentence(rng))
    rows = [
        example(f"what is {words}", 0, Reply(Message("assistant", " ".join(sentence(rng, 20))))),
        example(f"what causes {words}", 1, Reply(Message("assistant", " ".join(sentence(rng, 20))))),
    ]
    rows += [example(" ".join(sentence(rng)), at, Reply(Message("assistant", "x"))) for at in range(2, 60)]
    assert split(rows, 0.1, 0.3, "salt").num_together == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by", ["content", "time", "label"])
def test_rows_that_are_added_move_none_and_bring_no_two_sides_together(seed: int, by: str) -> None:
    """Of each old row two copies come later, each edited otherwise, and for some pairs of old rows one that is near to
    both. Mutant: a bridging row goes to the side of the first row that it is near to."""
    rng = random.Random(seed)
    halves = [(sentence(rng, 12), rng.choice(WORDS)) for _ in range(200)]
    old = [example(" ".join(h[:10]), at, Label("ab"[at % 2]), float(at)) for at, (h, _) in enumerate(halves)]
    # near neither to each other (8 of 12 words) nor alone: the bridge has 10 of 11 with each
    other = [example(" ".join(h[2:12]), 200 + at, Label("b"), 200.0 + at) for at, (h, _) in enumerate(halves)]
    drawing = Drawing(by)
    before = split(old + other, 0.1, 0.3, "salt", drawing=drawing)
    bridges = [example(" ".join(h[1:11]), 400 + at, Label("a"), 400.0 + at) for at, (h, _) in enumerate(halves)]
    after = split(old + other + bridges, 0.1, 0.3, "salt", ledger=before.ledger, drawing=drawing)
    then, now = sides(before), sides(after)
    assert all(now[text] == side for text, side in then.items())
    near = [(b.prompt[0].content, o.prompt[0].content) for b, *both in zip(bridges, old, other) for o in both]
    assert crossing(near, after) == 0
    apart = [a.prompt[0].content for a, b in zip(old, other) if now[a.prompt[0].content] != now[b.prompt[0].content]]
    assert len(apart) > 30
    assert sum(m.stands_in == "two splits" for m in after.moved) == len(apart)
    assert len(after.train) + len(after.dev) + len(after.test) + len(after.moved) == 600


def test_a_template_of_which_the_data_consists_is_drawn_row_by_row() -> None:
    """Else all rows would be on one side, and nothing could be tested. A group is not divided for that."""
    rows = [example(f"my order number {i} is late, where is it", i, group=f"g{i // 2}") for i in range(200)]
    rng = random.Random(0)
    rows += [example(" ".join(sentence(rng)), 200 + i) for i in range(200)]
    found = split(rows, 0.1, 0.2, "salt")
    assert (found.num_apart, found.num_together) == (200, 0)
    assert 15 <= sum(e.group is not None for e in found.test) <= 70
    places = {e.group: name for name in splitting.SPLITS for e in getattr(found, name) if e.group}
    assert all(places[e.group] == name for name in splitting.SPLITS for e in getattr(found, name) if e.group)


def test_the_newest_are_the_test_and_a_group_counts_by_its_newest_row() -> None:
    """Mutants: the oldest; a group placed by its first row, which leaves a row of the test's time in training."""
    rng = random.Random(3)
    times = rng.sample(range(10_000), 400)
    rows = [
        example(" ".join(sentence(rng)), at, when=float(t), group=f"g{at % 150}" if at < 300 else None)
        for at, t in enumerate(times)
    ]
    found = split(rows, 0.1, 0.2, "salt", drawing=Drawing("time"))

    def newest(part: list[Example]) -> dict[str, float]:
        of: dict[str, float] = {}
        for e in part:
            of[key(e)] = max(of.get(key(e), 0.0), e.when or 0.0)
        return of

    train, dev, test = (newest(list(part)) for part in (found.train, found.dev, found.test))
    assert max(train.values()) < min(dev.values()) < max(dev.values()) < min(test.values())
    assert len(found.test) / 400 == pytest.approx(0.2, abs=0.01)
    assert len(found.dev) / 400 == pytest.approx(0.1, abs=0.01)
    with pytest.raises(DataError, match=r"data.jsonl:0 has none.*data.columns.when"):
        split([example("no time", 0), *rows], 0.1, 0.2, "salt", drawing=Drawing("time"))


@pytest.mark.parametrize("seed", range(5))
def test_each_label_has_its_share_to_within_a_row(seed: int) -> None:
    """Mutant: the hash alone, which leaves a label with 10 rows without a test row in one of eight draws."""
    rng = random.Random(seed)
    sizes = {"often": 700, "some": 90, "few": 11, "rare": 5}
    rows = [
        example(" ".join(sentence(rng)), at, Label(name))
        for at, name in enumerate(label for label, num in sizes.items() for _ in range(num))
    ]

    def worst(found: Split) -> float:
        return max(
            abs(Counter(e.target.name for e in getattr(found, side))[label] - share * num)
            for side, share in (("test", 0.2), ("dev", 0.1))
            for label, num in sizes.items()
        )

    found = split(rows, 0.1, 0.2, str(seed), drawing=Drawing("label"))
    assert worst(found) < 1.25  # dev's is a share of what test left, which is itself within one
    assert worst(split(rows, 0.1, 0.2, str(seed))) > 1.25
    shuffled = rng.sample(rows, len(rows))
    assert sides(split(shuffled, 0.1, 0.2, str(seed), drawing=Drawing("label"))) == sides(found)
    with pytest.raises(DataError, match="split_by is label, and the rows have none"):
        split([example("a", 0, Reply(Message("assistant", "b")))], 0.1, 0.2, "s", drawing=Drawing("label"))


def test_every_unit_has_the_same_chance() -> None:
    """A cluster of five is held out as often as a row alone. Mutant: as often as one of its rows would be."""
    rng = random.Random(0)
    base = sentence(rng)
    five = [example(edited(rng, base), at) for at in range(5)]
    rest = [example(" ".join(sentence(rng)), at + 5, Label("a")) for at in range(95)]
    for by in ("content", "label"):
        places = [sides(split(five + rest, 0.1, 0.3, str(s), drawing=Drawing(by))) for s in range(60)]
        held = np.mean([place[five[0].prompt[0].content] == "test" for place in places])
        assert abs(held - 0.3) < 3 * (0.3 * 0.7 / 60) ** 0.5
