"""Near duplicates: similarities worked out by hand, recall of planted leaks per level, and what clean rows show."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tunesmith.data import near
from tunesmith.data.audit import like_training
from tunesmith.data.finding import prompt_of
from tunesmith.data.leaks import leaks, near_duplicates
from tunesmith.data.near import Bands, Words, near_earlier
from tunesmith.data.split import Split, split
from tunesmith.types import Example, Message, Reply

NUM_TRAIN, NUM_EACH = 3000, 100
LEVELS = ("identical", "case and space", "digits", "few words edited", "reordered")
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def vocabulary(rng: random.Random, num: int) -> list[str]:
    return ["".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 4))) for _ in range(num)]


def sentence(rng: random.Random, words: list[str], num: int) -> str:
    """Words drawn as in a language: the n-th one n times as rarely."""
    return " ".join(rng.choices(words, [1 / (k + 3) for k in range(len(words))], k=num))


def changed(text: str, level: str, rng: random.Random, words: list[str]) -> str:
    parts = text.split()
    if level == "case and space":
        return "  ".join(part.upper() for part in parts)
    if level == "digits":
        return text.replace("17", "23").replace("4", "9")
    if level == "few words edited":  # one of ten
        for at in rng.sample(range(len(parts)), max(1, len(parts) // 10)):
            parts[at] = rng.choice(words)
    if level == "reordered":
        rng.shuffle(parts)
    return " ".join(parts)


def made(seed: int = 0, *, planted: bool = True) -> tuple[Split, dict[str, str]]:
    """A split with given test rows, and the level of each planted prompt."""
    rng = random.Random(seed)
    words = vocabulary(rng, 4000)
    prompts = [f"{sentence(rng, words, rng.randint(10, 40))} number 17 of {i % 50}4" for i in range(NUM_TRAIN)]
    planted_at = {}
    for at, level in enumerate(LEVELS):
        for k in range(NUM_EACH if planted else 0):
            planted_at[changed(prompts[at * NUM_EACH + k], level, rng, words)] = level
    fresh = [f"{sentence(rng, words, rng.randint(10, 40))} number 17 of {i % 50}4" for i in range(1000)]
    train, test = ([example(p, name, i) for i, p in enumerate(some)] for name, some in
                   (("train", prompts), ("test", [*planted_at, *fresh])))  # fmt: skip
    return split(train, 0.0, 0.0, "salt", given={"test": test}), planted_at


def example(prompt: str, name: str, line: int) -> Example:
    return Example(
        f"{name}{line}-1", (Message("user", prompt),), Reply(Message("assistant", "yes")), source=f"{name}:{line}"
    )


def test_planted_leaks_are_found_and_clean_rows_are_not() -> None:
    """Identical ones are taken out of training by the split, twins are counted by the audit, the others by words.
    Mutants: bands of one word, no words weighed, digits not masked."""
    parts, level = made()
    found: dict[str, int] = dict.fromkeys(LEVELS, 0)
    moved = {m.source for m in parts.moved}
    for k in range(2 * NUM_EACH):
        found[LEVELS[k // NUM_EACH]] += f"train:{k}" in moved
    wrong = 0
    hits = {int(at) for at in np.flatnonzero(like_training(parts) >= 0)} | {n.at for n in leaks(parts, "test")}
    for at in hits:
        name = level.get(prompt_of(parts.test[at]))
        if name is None:
            wrong += 1
        else:
            found[name] += 1
    recall = {name: num / NUM_EACH for name, num in found.items()}
    print(f"recall {recall}; false pairs per 1,000 clean test rows: {wrong}")
    assert recall["identical"] == recall["case and space"] == recall["digits"] == recall["reordered"] == 1.0
    assert recall["few words edited"] >= 0.9
    assert wrong == 0


def test_another_question_about_the_same_thing_is_no_leak() -> None:
    """Prompts that differ in a word, with replies that have nothing in common; mutant: prompts alone are compared."""

    def row(prompt: str, reply: str, name: str) -> Example:
        return Example(
            f"{prompt}-1", (Message("user", prompt),), Reply(Message("assistant", reply)), source=f"{name}:1"
        )

    words = vocabulary(random.Random(9), 900)
    others = [row(" ".join(words[k : k + 6]), words[k], "train") for k in range(0, 600, 6)]
    thing = "the late infantile neuronal ceroid syndrome of the young"
    train = [row(f"what causes {thing}", "a gene that is broken", "train"), *others]
    for reply, is_leak in (("a change in a gene that is broken", True), ("seizures, and a loss of sight", False)):
        asked = [row(f"what is {thing}", reply, "test")]
        found = leaks(split(train, 0.0, 0.0, "salt", given={"test": asked}), "test")
        assert [(n.at, n.like) for n in found] == ([(0, 0)] if is_leak else [])


def test_clean_rows_are_no_duplicates() -> None:
    parts, _ = made(1, planted=False)
    assert near_duplicates(parts.train) == []


def test_near_duplicates_within_training() -> None:
    rng = random.Random(3)
    words = vocabulary(rng, 3000)
    texts = [sentence(rng, words, 25) for _ in range(300)]
    texts += [changed(text, "few words edited", rng, words) for text in texts[:50]]
    texts += texts[:20]  # identical: counted elsewhere
    found = near_duplicates([example(text, "train", i) for i, text in enumerate(texts)])
    pairs = {(n.at, n.like) for n in found}
    assert pairs <= {(300 + k, k) for k in range(50)}
    assert len(pairs) >= 46


def test_similarity_by_hand() -> None:
    """Four texts; `a` is in all of them and weighs log(5/4), `b` in two: log(5/2), the others log 5."""
    words = Words(["a b c", "b a", "a d 12", "A  e 7"])
    a, b, rare = np.log(5 / 4), np.log(5 / 2), np.log(5)
    zero = b  # digits are masked: 0 in two texts
    got = words.similarity(np.array([[0, 1], [0, 2], [2, 3], [1, 1]]))
    want = [(a + b) / (a + b + rare), a / (a + b + rare + rare + zero), (a + zero) / (a + zero + 2 * rare), 1.0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_an_instruction_that_all_share_makes_no_pair() -> None:
    """Mutant: words are not weighed, and forty common ones outvote those that differ."""
    rng = random.Random(5)
    words = vocabulary(rng, 3000)
    shared = " ".join(words[:40])
    texts = [f"{shared} {sentence(rng, words[40:], 8)}" for _ in range(400)]
    assert near_duplicates([example(text, "train", i) for i, text in enumerate(texts)]) == []


def test_each_text_has_a_band_in_common_as_often_as_the_formula_says() -> None:
    """Share of pairs of known similarity that are looked at. Mutant: minima that depend on each other."""
    texts = []
    for i in range(400):  # 40 words, 28 of them in both: 28 / 52 = 0.54
        shared, one, other = (
            [f"w{i}x{k}{part}" for k in range(num)] for part, num in (("s", 28), ("a", 12), ("b", 12))
        )
        texts += [" ".join(shared + one).translate(DIGITS), " ".join(shared + other).translate(DIGITS)]
    bands = Bands(Words(texts))
    met: set[int] = set()
    for band in range(near.BANDS):
        for index, bucket in bands.buckets(band):
            for number in np.unique(bucket):
                there = set(index[bucket == number].tolist())
                met |= {at for at in there if at % 2 == 0 and at + 1 in there}
    share = len(met) / 400
    similarity = 28 / 52
    wanted = 1 - (1 - similarity**near.ROWS) ** near.BANDS
    assert abs(share - wanted) < 3 * (wanted * (1 - wanted) / 400) ** 0.5 + 0.01


DIGITS = str.maketrans("0123456789", "abcdefghij")


@pytest.mark.parametrize("text", ["你好世界我们是朋友", "สวัสดีครับ", "あいうえお"])
def test_writings_without_spaces_have_several_words(text: str) -> None:
    assert len(near.words_of(text)) >= near.LEAST_WORDS


def test_short_texts_are_left_alone() -> None:
    words = Words(["yes no", "yes no", "no yes"])
    every = np.ones(3, bool)
    assert list(near_earlier(words, Bands(words), every, every)) == []
