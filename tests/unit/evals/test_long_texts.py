"""Loss by position and passkeys, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.evals import by_position, passkey


def words(text: str) -> list[int]:
    """A token a word."""
    return [hash_of(word) for word in text.split()]


def hash_of(word: str) -> int:
    return sum(ord(c) * 31**k for k, c in enumerate(word)) % 10_007


def test_ends_of_the_buckets() -> None:
    assert by_position.edges(8, 16) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert by_position.edges(8, 8) == [0, 2, 4, 6, 8]
    assert by_position.edges(100, 250) == [0, 25, 50, 75, 100, 138, 175, 212, 250]


def test_documents_are_texts_one_behind_the_other() -> None:
    texts = [[1] * 7, [2] * 3, [3] * 3, [4] * 2, [5] * 9]
    found = [d.tolist() for d in by_position.documents(texts, 5, 9)]
    assert found == [[1] * 5, [2, 2, 2, 3, 3], [4, 4, 5, 5, 5]]
    assert len(by_position.documents(texts, 5, 2)) == 2
    assert [d.tolist() for d in by_position.documents([[1, 2], [3]], 5, 9)] == [[1, 2, 3]]
    assert by_position.documents([[1]], 5, 9) == by_position.documents([], 5, 9) == []


def test_means_of_the_buckets() -> None:
    """Two documents of unlike length: a mean of their means would be another. The first token has no loss, so position
    0 counts nowhere."""
    ends = [0, 2, 4, 6]
    nats = [np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([7.0, 8.0])]
    means, num = by_position.bucketed(ends, nats)
    assert num == [2, 3, 2]
    assert means == [pytest.approx(4.0), pytest.approx((2 + 3 + 8) / 3), pytest.approx(4.5)]
    assert by_position.bucketed(ends, [nats[1]]) == ([7.0, 8.0, None], [1, 1, 0])
    between = by_position.mean_between(ends, means, num, 2, 6)
    assert between == pytest.approx((2 + 3 + 8 + 4 + 5) / 5)
    assert by_position.mean_between(ends, [1.0, None, None], [1, 0, 0], 2, 6) is None


@pytest.mark.parametrize("depth", passkey.DEPTHS)
def test_a_passkey_stands_where_it_should(depth: float) -> None:
    one = passkey.question(words, 400, depth, 0)
    assert one is not None
    assert 400 - 20 < len(one.tokens) <= 400
    key = passkey.key_of(400, depth, 0)
    assert one.num_answer == 1
    assert one.tokens[-1] == hash_of(key)
    at = one.tokens.index(hash_of(f"{key}."))  # "The pass key is KEY."
    first, last = len(words(passkey.HEAD)), len(one.tokens) - len(words(passkey.TAIL)) - 1
    assert (at - 4 - first) / (last - first - 13) == pytest.approx(depth, abs=0.05)


def test_passkeys_differ_and_stay_the_same() -> None:
    asked = passkey.questions(words, [100, 400], 2)
    assert [(q.length, q.depth, q.number) for q in asked[:3]] == [(100, 0.0, 0), (400, 0.0, 0), (100, 0.25, 0)]
    assert len({q.tokens for q in asked}) == len(asked) == 20
    assert asked == passkey.questions(words, [100, 400], 2)
    assert passkey.questions(words, [30], 2) == []  # no room for the question itself


def test_an_answer_of_several_tokens() -> None:
    """Cut by characters: the answer is the blank and five digits."""
    one = passkey.question(lambda text: [ord(c) for c in text], 600, 0.5, 1)
    assert one is not None
    assert "".join(map(chr, one.tokens[-one.num_answer :])) == f" {passkey.key_of(600, 0.5, 1)}"
