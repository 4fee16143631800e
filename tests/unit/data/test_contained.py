"""Planted items of public tests are found; rows of another meaning are left alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tunesmith.data.contained import Items, Search, counts, run_hashes, words_of
from tunesmith.types import Example, Message, Reply

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnoprstuvwz", k=5)) for i in range(3000)]


def example(prompt: str, reply: str = "yes") -> Example:
    return Example("0", (Message("user", prompt),), Reply(Message("assistant", reply)))


def sentence(rng: random.Random, num: int) -> str:
    return " ".join(rng.choices(WORDS, k=num))


def within(rng: random.Random, item: str) -> Example:
    return example(f"{sentence(rng, 9)}. {item} {sentence(rng, 7)}")


def respelled(rng: random.Random, item: str) -> Example:
    return example(f"Q:  {item.upper().replace(' ', '  ')}?!")


def replied(rng: random.Random, item: str) -> Example:
    return example(sentence(rng, 5), item)


def shortened(rng: random.Random, item: str) -> Example:
    words = item.split()
    return example(" ".join(words[: max(1, round(0.8 * len(words)))]))


def edited(rng: random.Random, item: str) -> Example:
    words = item.split()
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    return example(" ".join(words))


@pytest.mark.parametrize(
    ("plant", "num_words", "least"),
    [(within, 4, 1.0), (within, 30, 1.0), (respelled, 6, 1.0), (respelled, 40, 1.0), (replied, 12, 1.0),
     (shortened, 15, 1.0), (edited, 30, 1.0), (edited, 20, 0.9), (edited, 12, 0.4)],
)  # fmt: skip
def test_planted_items_are_found(plant: Callable[[random.Random, str], Example], num_words: int, least: float) -> None:
    """200 items, each in one of 1,000 rows. Mutant: an item of 4 words is looked for by runs of 8."""
    rng = random.Random(num_words)
    items = [sentence(rng, num_words) for _ in range(200)]
    rows = [plant(rng, item) for item in items] + [example(sentence(rng, 40)) for _ in range(800)]
    found = list(Search([Items("test", items)]).in_rows(rows))
    assert all(items[one.row] == one.item for one in found), "and no other row"
    share = len(found) / 200
    print(f"{plant.__name__}, {num_words} words: {len(found)} of 200 planted items found, 0 of 800 clean rows")
    assert share >= least


def test_numbers_tell_two_problems_apart() -> None:
    """Mutant: digits masked."""
    search = Search([Items("sums", ["Anna has 3.5 apples and 4 pears, how many more pears"])])
    assert list(search.in_rows([example("Anna has 3.6 apples and 5 pears, how many more pears")])) == []
    assert len(list(search.in_rows([example("anna has 3.5 apples and 4 pears how many more pears?")]))) == 1


def test_a_run_does_not_go_from_one_row_into_the_next() -> None:
    rows = [example("xx the quick brown", "fox"), example("jumps over it", "ok")]
    assert list(Search([Items("a", ["the quick brown fox jumps over it"])]).in_rows(rows)) == []


def test_writings_without_spaces_are_counted_letter_by_letter() -> None:
    [found] = Search([Items("a", ["法国的首都是什么"])]).in_rows([example("请问，法国的首都是什么？")])
    assert found.row == 0


def test_a_common_phrase_of_a_long_item_is_no_item() -> None:
    rng = random.Random(0)
    phrase, rest = sentence(rng, 9), [sentence(rng, 20) for _ in range(2)]
    assert list(Search([Items("a", [f"{rest[0]} {phrase} {rest[1]}"])]).in_rows([example(f"{phrase} x")])) == []


def test_counts_and_what_is_too_short() -> None:
    search = Search([Items("one", ["what do bees make", "who is it"]), Items("two", ["what do bees make"])])
    found = list(search.in_rows([example("What do bees make?"), example("Say: what do bees make? Honey")]))
    assert search.num_short == {"one": 1, "two": 0}
    assert counts(found) == {"one": 1, "two": 1}
    assert [one.row for one in found] == [0, 0, 1, 1]


def test_hashes_of_runs_know_the_order() -> None:
    one, other = words_of("a b c d"), words_of("a c b d")
    assert run_hashes(one, 4)[0] != run_hashes(other, 4)[0]
    assert run_hashes(one, 2)[1] == run_hashes(words_of("b c"), 2)[0]
