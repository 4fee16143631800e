"""A number hidden somewhere in a long text, and asked for at its end (Mohtashami and Jaggi 2023, arXiv:2305.16300,
whose words these are; Chen et al. 2023 measure a longer context by it)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about "
    "the important information there.\n"
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key.\n"
TAIL = "What is the pass key? The pass key is"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the irrelevant text that stands before the number

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Question:
    length: int  # tokens that it has at most, with the answer
    depth: float
    number: int  # of several with this length and depth
    tokens: tuple[int, ...]  # with the answer at their end
    num_answer: int  # tokens of the answer


def key_of(length: int, depth: float, number: int) -> str:
    """Five digits that depend on nothing else."""
    digest = hashlib.sha256(f"passkey {length} {depth:g} {number}".encode()).digest()
    return str(10_000 + int.from_bytes(digest[:8], "big") % 90_000)


def text_of(key: str, depth: float, num_fillers: int) -> str:
    before = round(depth * num_fillers)
    return "".join((HEAD, FILLER * before, NEEDLE.format(key=key), FILLER * (num_fillers - before), TAIL))


def question(encode: Encode, length: int, depth: float, number: int) -> Question | None:
    """As much irrelevant text as `length` tokens have room for; None where there is not even room for the rest."""
    key = key_of(length, depth, number)
    each = len(encode(FILLER * 2)) - len(encode(FILLER))
    num = (length - len(encode(f"{text_of(key, depth, 0)} {key}"))) // max(1, each)
    while num >= 0:
        prompt = encode(text_of(key, depth, num))
        whole = encode(f"{text_of(key, depth, num)} {key}")
        if len(whole) <= length:
            start = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), min(len(prompt), len(whole)))
            return Question(length, depth, number, tuple(whole), len(whole) - start)
        num -= 1
    return None


def questions(encode: Encode, lengths: Sequence[int], num_each: int) -> list[Question]:
    """One of every length and depth, then the next: what a clock cuts off is cut off evenly."""
    found = (question(encode, n, d, number) for number in range(num_each) for d in DEPTHS for n in lengths)
    return [one for one in found if one is not None]
