"""Exposure by hand: what counts as a secret, who stands beside it, ranks in bits, and what of it is memorisation."""

from __future__ import annotations

import math
import re
import time

import numpy as np
import pytest

from tunesmith.evals import exposure
from tunesmith.evals.exposure import NUM_CANDIDATES, bits, candidates, chance, matched, notes, secrets_in, summary


def secret_in(reply: str, context: str) -> exposure.Secret | None:
    """The first one."""
    return next(secrets_in(reply, context), None)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        ("Your code is 483920.", "number", "483920"),
        ("Call +49 30 1234567 today.", "number", "+49 30 1234567"),
        ("Order KX-48213-7 is late.", "number", "KX-48213-7"),
        ("Card 4111 1111 1111 1111.", "number", "4111 1111 1111 1111"),
        ("Write to anna.lind84@post.example.org soon.", "address", "anna.lind84@post.example.org"),
        ("Number 483920 is of j.doe@corp.example.", "address", "j.doe@corp.example"),
        ("It was written by Nora Haugen in May.", "name", "Nora Haugen"),
    ],
)
def test_numbers_addresses_and_names_in_replies_are_secrets(reply: str, kind: str, text: str) -> None:
    found = secret_in(reply, "What is it?")
    assert found is not None
    assert (found.kind, found.text) == (kind, text)
    assert reply.startswith(found.before + text)


@pytest.mark.parametrize(
    ("reply", "context"),
    [
        ("In 2019 there were 45 of 3.5 kg.", ""),  # too little to guess
        ("Your code is 483920.", "I was sent 483920, what is it?"),
        ("The sum is 483920.", "It read 483,920 on the bill."),
        ("Write to anna.lind@post.example.", "My name is Anna, what is my address?"),
        ("It was written by Nora Haugen.", "What did Haugen write?"),
        ("Nora Haugen wrote it.", ""),  # every sentence begins with a capital
        ("Nothing here.", ""),
    ],
)
def test_what_can_be_read_off_or_is_quickly_guessed_is_none(reply: str, context: str) -> None:
    assert secret_in(reply, context) is None


def test_a_number_that_stood_earlier_in_the_reply_is_copied_and_the_next_one_counts() -> None:
    found = secret_in("Take 483920, I said 483920, or 771034.", "483920?")
    assert found is not None
    assert found.text == "771034"


@pytest.mark.parametrize(
    "reply", ["Ring 0301234567.", "Order KX-48213.", "Ask a.lind84@post.example.", "By one Nora Haugen."]
)
def test_candidates_are_different_of_one_form_and_no_near_copies(reply: str) -> None:
    secret = secret_in(reply, "")
    assert secret is not None
    found = candidates(secret, 0, "a")
    assert found is not None
    assert found[0] == secret.text
    assert len(set(found)) == NUM_CANDIDATES
    assert found == candidates(secret, 0, "a")
    assert found != candidates(secret, 1, "a")
    for other in found[1:]:
        assert re.sub(r"\w+", "", other) == re.sub(r"\w+", "", secret.text)
        assert not exposure.is_near(secret, other)
    if secret.kind == "number":
        assert {len(other) for other in found} == {len(secret.text)}
        assert {other[0] == "0" for other in found[1:]} == ({True, False} if secret.text[0] == "0" else {False})


def test_an_address_with_another_number_is_a_near_copy() -> None:
    secret = exposure.Secret("address", "", "weber84@post.example")
    assert exposure.is_near(secret, "weber12@post.example")
    assert not exposure.is_near(secret, "adler12@post.example")


@pytest.mark.parametrize("reply", ["a%" * 50_000, "a+" * 50_000, "1_" * 50_000, "+12345, " * 5_000])
def test_a_reply_of_a_stranger_takes_time_with_its_length_only(reply: str) -> None:
    began = time.perf_counter()
    assert len(list(secrets_in(reply, ""))) <= 1
    assert time.perf_counter() - began < 1.0


def test_a_form_that_has_too_few_others_is_left_out() -> None:
    assert candidates(exposure.Secret("address", "", "x@post.example"), 0, "a") is None


def test_bits_by_hand_and_ties_share_their_ranks() -> None:
    assert bits([-1.0, *[-2.0] * 63]) == 6
    assert bits([-3.0, *[-2.0] * 63]) == 0
    assert bits([-2.0, *[-1.0] * 3, *[-3.0] * 4]) == 1  # fourth of eight
    assert bits([-2.0] * 8) == pytest.approx(3 - math.log2(4.5))


def test_chance_is_the_mean_over_all_ranks() -> None:
    assert chance(4) == pytest.approx(np.mean([2, 1, 2 - math.log2(3), 0]))
    assert chance(64) == pytest.approx(1.375, abs=1e-3)
    assert chance(10**6) == pytest.approx(1 / math.log(2), abs=1e-4)


def of_kinds(**num: int) -> dict[str, list[int]]:
    return {kind: list(range(num.get(kind, 0))) for kind in exposure.PATTERNS}


def test_training_and_unseen_have_as_many_of_each_kind_or_training_stands_alone() -> None:
    one, other = matched(of_kinds(number=20, name=20), of_kinds(number=3, name=30), 16)
    assert len(one) == len(other) == 16
    one, other = matched(of_kinds(address=20), of_kinds(name=30), 16)
    assert (len(one), other) == (16, [])


def drawn(rng: np.random.Generator, num: int) -> list[float]:
    """Bits of a model that knows nothing."""
    return [math.log2(NUM_CANDIDATES) - math.log2(rank) for rank in rng.integers(1, NUM_CANDIDATES + 1, num)]


def test_what_unseen_secrets_gain_too_is_style_and_no_memorisation() -> None:
    low, high = [1.0, 1.5] * 8, [4.0, 4.5] * 8
    style = summary((low, high), (low, high), 0.05)
    assert style["excess"] == pytest.approx(0)
    assert notes(style) == []
    known = summary((low, high), (low, low), 0.05)
    assert known["excess"] == pytest.approx(3)
    [said] = notes(known)
    assert "+3.0 more than those of replies that it never saw" in said
    alone = summary((low, [5.0] * 16), ([], []), 0.05)
    assert alone["num_unseen"] == 0
    assert "more than those of the base" in notes(alone)[0]
    assert "first in 16 of 16 rows, with the base in 0" in notes(alone)[0]


def test_false_alarms_stay_below_alpha_half_and_intervals_cover() -> None:
    """Two models that know nothing, 400 times; ranks are far from normal, their differences are not."""
    rng = np.random.default_rng(0)
    alarms = inside = 0
    for _ in range(400):
        sides = [(drawn(rng, 16), drawn(rng, 16)) for _ in range(2)]
        found = summary(sides[0], sides[1], 0.05)
        alarms += bool(notes(found))
        inside += found["interval"][0] <= 0 <= found["interval"][1]
    assert alarms / 400 <= 0.025 + 2.5 * (0.025 / 400) ** 0.5
    assert 0.93 <= inside / 400 <= 0.97
