"""Span corruption: runs of tokens are taken out of a text and told from the rest, by encoder-decoders.

T5 (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4): runs of 3 tokens on average, 15% of all. Each leaves a
sentinel in the source; the target is the sentinels, each with what it stands for. BART (Lewis et al. 2020,
arXiv:1910.13461, "text infilling"), whose tokenizer has a mask and no sentinels: 30%, each run leaves one mask, and the
target is the whole text; the lengths of runs are drawn here as T5's, and not from a Poisson distribution. What is taken
out is drawn anew in each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from tunesmith.data.masking import NUM_FOLDS, generator, unlearned
from tunesmith.errors import ModelError
from tunesmith.types import Record, Segment

NOISE_FRAC, INFILL_FRAC, SPAN_TOKENS = 0.15, 0.3, 3
SENTINELS = ("<extra_id_{}>", "▁<extra_id_{}>")  # as T5's tokenizer names them, and mT5's
MOST_SENTINELS = 100


def sentinels_of(tokenizer: Any) -> tuple[int, ...]:
    """Their ids, in the order in which they are used; none where the tokenizer has none."""
    known: dict[str, int] = tokenizer.get_vocab()
    name = next((name for name in SENTINELS if name.format(0) in known), SENTINELS[0])
    names = takewhile(known.__contains__, (name.format(n) for n in range(MOST_SENTINELS)))
    return tuple(known[found] for found in names)


def split_at_random(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """`parts` numbers of at least 1 that come to `total`, every such choice as likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()


def runs(length: int, frac: float, most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """[start, stop) of what is taken out of so many tokens (2 or more): at most `most` runs, anywhere, with a kept
    token between two. (T5's own code keeps the first token and takes the last: of a short text always the end.)"""
    noisy = min(max(1, round(frac * length)), length - 1)
    num = min(max(1, round(noisy / SPAN_TOKENS)), noisy, length - noisy, most)
    kept = split_at_random(length - noisy + 2, num + 1, rng)  # before, between and behind; none need stand at the ends
    found, at = [], -1
    for before, taken in zip(kept, split_at_random(noisy, num, rng)):
        found.append((at + before, at + before + taken))
        at += before + taken
    return found


@dataclass(frozen=True, slots=True)
class Spans:
    """`sentinels` stand for runs; where there are none, `mask` does."""

    sentinels: tuple[int, ...]
    mask: int
    before: tuple[int, ...]  # what the tokenizer puts around a text, source and target alike
    after: tuple[int, ...]
    seed: int

    num_folds = NUM_FOLDS
    scored_words = "by all of their tokens, each told from the text around it, runs of 3 taken out at a time"

    @classmethod
    def of(cls, tokenizer: Any, around: tuple[list[int], list[int]], seed: int) -> Spans:
        """`around`: what the tokenizer puts before and behind a text."""
        sentinels, mask = sentinels_of(tokenizer), tokenizer.mask_token_id
        if not sentinels and mask is None:
            raise ModelError(
                "the tokenizer has neither sentinels (<extra_id_0> …, as T5's) nor a mask token (as BART's), one of "
                "which stands for what is taken out of a text. Use the tokenizer that the model was pre-trained with"
            )
        before, after = map(tuple, around)
        return cls(sentinels, -1 if mask is None else int(mask), before, after, seed)

    @property
    def learned_words(self) -> str:
        if self.sentinels:
            what, how = f"{NOISE_FRAC:.0%}", "sentinels stand for them, and the target is what these stand for"
        else:
            what, how = f"{INFILL_FRAC:.0%}", "a mask stands for each, and the target is the whole text"
        return f"they do not overlap; runs of 3 tokens, {what} of all, are taken out, others in each epoch: {how}"

    def room(self, max_tokens: int) -> int:
        """Tokens of a text that source and target together have room for."""
        left = max_tokens - 2 * (len(self.before) + len(self.after))
        if not self.sentinels:
            return left // 2
        # two sentinels for a run of 3 of 20 tokens, or in a score of 21; and as many runs as there are sentinels
        return min((left - 4) * 10 // 11, NUM_FOLDS * SPAN_TOKENS * len(self.sentinels))

    def is_open(self, text: np.ndarray) -> np.ndarray:
        """[n] bool: the tokens that may be taken out, with one at least that stays."""
        return np.full(len(text), len(text) > 1)

    def drawn(self, name: str, text: np.ndarray, weight: float, epoch: int) -> Record:
        """For learning. `text`: [n] tokens without marks, 2 or more. The sentinels and the end of the target are
        learned too, as in the paper."""
        rng = generator(self.seed, epoch, name, text)
        if self.sentinels:
            found = runs(len(text), NOISE_FRAC, len(self.sentinels), rng)
        else:
            found = runs(len(text), INFILL_FRAC, len(text), rng)
        record = self._record(name, text, found)
        reply = record.segments[1]
        return Record(name, (record.segments[0], Segment(reply.tokens, np.full_like(reply.weights, weight), 0)))

    def folds(self, name: str, text: np.ndarray) -> list[Record]:
        """For a score: every token is taken out in one of these, in runs of 3, and weighs there; nothing else does."""
        blocks = [(at, min(at + SPAN_TOKENS, len(text))) for at in range(0, len(text), SPAN_TOKENS)]
        return [self._record(name, text, blocks[first::NUM_FOLDS]) for first in range(min(NUM_FOLDS, len(blocks)))]

    def text(self, record: Record) -> np.ndarray:
        """[n] the tokens that a record was made of."""
        source, target = (self._bare(s.tokens) for s in record.segments)
        if not self.sentinels:
            return target
        stands_for: dict[int, list[int]] = {}
        for token in target.tolist():
            if token in self.sentinels:
                stands_for[token] = []
            else:
                stands_for[next(reversed(stands_for))].append(token)
        return np.array([t for s in source.tolist() for t in stands_for.pop(s, [s])], np.int64)

    def _bare(self, tokens: np.ndarray) -> np.ndarray:
        return tokens[len(self.before) : len(tokens) - len(self.after)]

    def _record(self, name: str, text: np.ndarray, taken: Sequence[tuple[int, int]]) -> Record:
        """Source and target. What was taken out weighs 1 in the target."""
        source: list[int] = []
        target: list[int] = []
        weighs: list[int] = []
        at = 0
        for number, (start, stop) in enumerate(taken):
            mark = self.sentinels[number] if self.sentinels else self.mask
            kept = text[at:start].tolist()
            source += [*kept, mark]
            head = [mark] if self.sentinels else kept
            target += [*head, *text[start:stop].tolist()]
            weighs += [0] * len(head) + [1] * (stop - start)
            at = stop
        rest = text[at:].tolist()
        source += rest
        if not self.sentinels:
            target, weighs = target + rest, weighs + [0] * len(rest)
        weights = np.array([0] * len(self.before) + weighs + [0] * len(self.after), np.float32)
        reply = Segment(np.array([*self.before, *target, *self.after], np.int64), weights, 0)
        return Record(name, (unlearned(np.array([*self.before, *source, *self.after], np.int64)), reply))
