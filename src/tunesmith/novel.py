"""Which made-up rows are worth learning from: whole, no refusal, nothing left of a template, of a usual length, unlike
what is there, and no copy of what is held out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tunesmith.data import markers, replies
from tunesmith.data.traits import masked, normalised
from tunesmith.rollouts.matches import in_common

LEFT_OVER = re.compile(
    r"\[(?:insert|your|name|topic|company|date|product)[^\]\n]{0,40}\]|\{[a-z_ ]{1,30}\}|<(?:insert|your)[^>\n]{0,40}>"
    r"|^(?:sure|certainly|of course|here (?:is|are|'s)|okay)\b[^\n]{0,80}[:!]"
    r"|^\s*(?:rewritten|paraphrase|translation)\s*:|\bas an? (?:chatbot|assistant)\b",
    re.IGNORECASE,
)
LENGTH = (0.33, 3.0)  # of the shortest and the longest seed, in words, between which a prompt has to be
ROUGE_L = 0.7  # above which a prompt is no new one: self-instruct (Wang et al. 2022, arXiv:2212.10560)
EMPTY, REFUSED, LEFT, LENGTHS = "says nothing", "refuses", "holds the words of a template", "is too short or too long"
HELD_OUT, ALIKE = "is nearly a held-out row", "is nearly a row that is there"


def words(text: str) -> list[str]:
    return normalised(text).split()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words."""
    return 2 * in_common(a, b) / (len(a) + len(b)) if a and b else 0.0


class Pool:
    """Texts that a new one is held against."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts: list[tuple[list[str], Counter[str]]] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        found = words(text)
        self.texts.append((found, Counter(found)))

    def holds(self, text: str, above: float) -> bool:
        """Whether one of them has a ROUGE-L above this, or is equal. Words in common, in whatever order, bound it."""
        found = words(text)
        counts = Counter(found)
        return any(
            found == other
            or (2 * (counts & there).total() > above * (len(found) + len(other)) and rouge_l(found, other) > above)
            for other, there in self.texts
        )


def trouble(text: str) -> str:
    """Why nobody should learn from a text; "" where there is no reason."""
    if replies.is_empty(text):
        return EMPTY
    if replies.refusal(text):
        return REFUSED
    return LEFT if LEFT_OVER.search(text) or markers.control(text) or markers.hidden(text) else ""


class Novel:
    """Lets a prompt in once. `above`: likeness to what is there, from which on it is no new one; None: the prompt is a
    seed's own, and the answer has to be new."""

    def __init__(
        self, seeds: Sequence[str], held_out: Sequence[str], above: float | None,
        sizes: tuple[float, float] | None = None,
    ) -> None:  # fmt: skip
        """`sizes`: fewest and most words of a prompt; None: by those of the seeds."""
        seen = [len(words(text)) for text in seeds]
        self.least, self.most = sizes or (LENGTH[0] * min(seen), LENGTH[1] * max(seen))
        self.held_out, self.above = Pool(masked(text) for text in held_out), above
        self.there = Pool(seeds if above is not None else ())

    def refused(self, prompt: str, answer: str) -> str:
        """Why; "" where it is let in, and stands among what is there from now on."""
        why = trouble(prompt) or trouble(answer)
        if why:
            return why
        if self.above is not None and not self.least <= len(words(prompt)) <= self.most:
            return LENGTHS
        if self.held_out.holds(masked(prompt), ROUGE_L):
            return HELD_OUT
        seen = prompt if self.above is not None else f"{prompt}\n{answer}"
        if self.there.holds(seen, 1.0 if self.above is None else self.above):
            return ALIKE
        self.there.add(seen)
        return ""
