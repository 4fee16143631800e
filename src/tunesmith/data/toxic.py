"""Insults, threats and obscene words: a classifier reads each piece of a row. It hears words rather than what is meant,
so that a quotation or an organ can be told too: nothing is dropped unless a person says so.

Without a model that is named, it is the linear model of alt-profanity-check (the extra `toxicity`, and the only file
that imports it), which was trained on 200,000 comments: English only.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tunesmith.data.finding import Finding, finding
from tunesmith.data.tally import Tally
from tunesmith.types import Example, Label, Marked, Pair, Ranked, Reply

SENTENCE = re.compile(r"[^.!?…\n]+[.!?…]*|[.!?…]+")
ENGLISH = frozenset({"en", "pcm"})  # and Pidgin, whose insults are English; of German it hears "die"
PIECE = 512  # rows whose pieces are read at a time
NO_LIBRARY = (
    "toxic words were not looked for: `pip install 'tunesmith[toxicity]'` brings a small model for English, "
    "`--toxicity MODEL` takes one of yours"
)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who says what is toxic."""

    score: Callable[[Sequence[str]], np.ndarray]  # texts to the probability that each is
    sure: float  # from which on it is told
    words: int  # of a piece, half of them shared with the next: in a long text an insult drowns
    languages: frozenset[str] = frozenset()  # that it reads; none: any


def reader() -> Reader | None:
    """The small model; None where alt-profanity-check is not installed."""
    if importlib.util.find_spec("profanity_check") is None:
        return None
    library: Any = importlib.import_module("profanity_check")
    return Reader(lambda texts: np.asarray(library.predict_prob(list(texts)), np.float64), 0.95, 16, ENGLISH)


def pieces(text: str, most: int) -> list[tuple[int, str]]:
    """Where each begins, and the piece: a sentence, or `most` words of it."""
    found = []
    for sentence in SENTENCE.finditer(text):
        words = list(re.finditer(r"\S+", sentence[0]))
        for begin in range(0, max(1, len(words) - most // 2), most // 2):
            some = words[begin : begin + most]
            if some:
                at = sentence.start()
                found.append((at + some[0].start(), text[at + some[0].start() : at + some[-1].end()]))
    return found


def sides(example: Example) -> tuple[list[str], list[str]]:
    """What is given, and what is learned to be said: of a pair and a list the best reply, of a marked one a good one,
    and earlier turns of the assistant that are learned too."""
    given = [m.content for m in example.prompt if m.role != "assistant" or m.weight == 0]
    learned = [m.content for m in example.prompt if m.role == "assistant" and m.weight > 0]
    target = example.target
    if isinstance(target, Reply):
        learned.append(target.text)
    elif isinstance(target, (Pair, Ranked)) or (isinstance(target, Marked) and target.is_good):
        learned.append(target.replies[0].content)
    return given, [] if isinstance(target, Label) else learned


def told(examples: Iterable[Example], reader: Reader) -> Iterator[tuple[str, Example, str, int, str]]:
    """(kind of finding, row, text, place, what is there) of each toxic row: `toxic_replies` where a reply is, else
    `toxic_prompts`."""
    stream = iter(examples)
    while some := list(islice(stream, PIECE)):
        places = [
            (row, side, text, at, piece)
            for row, example in enumerate(some)
            for side, texts in zip(("toxic_prompts", "toxic_replies"), sides(example))
            for text in texts
            for at, piece in pieces(text, reader.words)
        ]
        worst: dict[tuple[int, str], tuple[float, str, int]] = {}
        chances = reader.score([piece for *_, piece in places]) if places else np.empty(0)
        for (row, side, text, at, _), chance in zip(places, chances.tolist()):
            if chance >= max(reader.sure, worst.get((row, side), (0.0,))[0]):
                worst[row, side] = (chance, text, at)
        for row, example in enumerate(some):
            kind = "toxic_replies" if (row, "toxic_replies") in worst else "toxic_prompts"
            if (row, kind) in worst:
                chance, text, at = worst[row, kind]
                yield kind, example, text, at, f"{chance:.2f}"


def findings(tallies: dict[str, Tally], num: int) -> Iterator[Finding]:
    """`tallies`: of what was `told` of `num` rows."""
    if "toxic_replies" in tallies:
        tally = tallies["toxic_replies"]
        yield finding("toxic_replies", tally.count, num, tally.rows, (
            "rows teach a reply that reads as toxic (insults, threats, obscene words, or a quotation of such)",
            "the model learns to say it", "read them, and drop them"))  # fmt: skip
    if "toxic_prompts" in tallies:
        tally = tallies["toxic_prompts"]
        yield finding("toxic_prompts", tally.count, num, tally.rows, (
            "rows have a prompt that reads as toxic, and no such reply",
            "the model learns what to answer there, and no toxic word itself: it is well where the reply is",
            "look at the replies, or drop the rows"))  # fmt: skip
