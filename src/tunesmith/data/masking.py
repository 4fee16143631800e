"""Masked language modelling: some tokens of a text are hidden, and told from all the others (Devlin et al. 2018,
arXiv:1810.04805, section 3.1).

A text with hidden tokens is a tree: it is cut behind each of these, and what stands there in truth hangs below the cut
as a learned "reply" of one token, which is foretold from the place that hides it. So losses, scores and regularisers
are those of replies. Which tokens are hidden is drawn anew in each epoch (Liu et al. 2019, arXiv:1907.11692, section
4.1), from the seed, the epoch and the text alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.controls import Controls
from tunesmith.errors import ModelError
from tunesmith.types import Record, Segment

HIDDEN_FRAC = 0.15  # of the tokens that may be hidden
MASK_FRAC, OTHER_FRAC = 0.8, 0.1  # of these: shown as a mask, as another token; the rest is shown as it is
NUM_FOLDS = 7  # in a score: each token is hidden once, every seventh at a time, which is about HIDDEN_FRAC


def generator(seed: int, epoch: int, name: str, tokens: np.ndarray) -> np.random.Generator:
    """Of one text in one epoch: what else is learned, and where training was stopped, does not move it."""
    said = f"{seed}:{epoch}:{name}:".encode() + tokens.astype(np.int64).tobytes()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(said).digest()[:8], "little"))


@dataclass(frozen=True, slots=True)
class Masks:
    """The marks around a text and all other special tokens are never hidden, nor shown in place of another."""

    mask: int  # the token that hides one
    ordinary: np.ndarray  # [n] int64, those that another one is drawn from
    controls: Controls
    before: tuple[int, ...]  # what the tokenizer puts around a text
    after: tuple[int, ...]
    seed: int

    num_folds = NUM_FOLDS
    learned_words = (
        f"they do not overlap; {HIDDEN_FRAC:.0%} of the tokens are hidden, others in each epoch: {MASK_FRAC:.0%} shown "
        f"as a mask, {OTHER_FRAC:.0%} as another token, the rest as it is"
    )
    scored_words = "by all of their tokens, each told from the text around it, every seventh hidden at a time"

    @classmethod
    def of(
        cls, tokenizer: Any, controls: Controls, around: tuple[list[int], list[int]], vocabulary: int, seed: int
    ) -> Masks:
        """`around`: what the tokenizer puts before and behind a text; `vocabulary`: tokens that the model knows."""
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer has no mask token, which stands for a hidden one in masked language modelling. Use the "
                "tokenizer that the model was pre-trained with"
            )
        ids = np.array(sorted(i for i in tokenizer.get_vocab().values() if i < vocabulary), np.int64)
        before, after = map(tuple, around)
        return cls(int(tokenizer.mask_token_id), ids[~controls.where(ids)], controls, before, after, seed)

    def room(self, max_tokens: int) -> int:
        """Tokens of a text that a piece of `max_tokens` has room for. A hidden last one hangs one place further."""
        return max_tokens - len(self.before) - max(1, len(self.after))

    def is_open(self, text: np.ndarray) -> np.ndarray:
        """[n] bool: the tokens that may be hidden."""
        return ~self.controls.where(text)

    def drawn(self, name: str, text: np.ndarray, weight: float, epoch: int) -> Record:
        """For learning. `text`: [n] tokens without marks, of which one at least may be hidden."""
        rng = generator(self.seed, epoch, name, text)
        open_to = np.flatnonzero(self.is_open(text))
        hidden = np.sort(rng.choice(open_to, max(1, round(HIDDEN_FRAC * len(open_to))), replace=False))
        shown, how, other = text.copy(), rng.random(len(hidden)), rng.choice(self.ordinary, len(hidden))
        as_mask, as_other = how < MASK_FRAC, how >= 1 - OTHER_FRAC
        shown[hidden[as_mask]] = self.mask
        shown[hidden[as_other]] = other[as_other]
        return self._record(name, shown, hidden, text[hidden], weight)

    def folds(self, name: str, text: np.ndarray) -> list[Record]:
        """For a score: every token that may be hidden is, as a mask, in one of these."""
        open_to, found = np.flatnonzero(self.is_open(text)), []
        for first in range(min(NUM_FOLDS, len(open_to))):
            hidden, shown = open_to[first::NUM_FOLDS], text.copy()
            shown[hidden] = self.mask
            found.append(self._record(name, shown, hidden, text[hidden], 1.0))
        return found

    def text(self, record: Record) -> np.ndarray:
        """[n] the tokens that a record was made of."""
        shown, hidden, wanted = taken_apart(record)
        shown[hidden] = wanted
        return shown[len(self.before) : len(shown) - len(self.after)]

    def _record(self, name: str, shown: np.ndarray, hidden: np.ndarray, wanted: np.ndarray, weight: float) -> Record:
        """The shown text as a chain of segments, each but the last ending with a hidden token, under which hangs what
        it is."""
        whole = np.concatenate([self.before, shown, self.after]).astype(np.int64)
        segments: list[Segment] = []
        above, begin = -1, 0
        for end, token in zip((hidden + len(self.before) + 1).tolist(), wanted):
            segments.append(unlearned(whole[begin:end], above))
            above, begin = len(segments) - 1, end
            segments.append(Segment(np.array([token], np.int64), np.array([weight], np.float32), above))
        rest = [unlearned(whole[begin:], above)] if begin < len(whole) else []
        return Record(name, (*segments, *rest))


def unlearned(tokens: np.ndarray, above: int = -1) -> Segment:
    return Segment(tokens, np.zeros(len(tokens), np.float32), above)


def taken_apart(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([n] the text as it is shown, with its marks; [L] where tokens are hidden in it; [L] what these are)."""
    shown: list[int] = []
    hidden: list[int] = []
    wanted: list[int] = []
    for segment in record.segments:
        if segment.weights.any():
            hidden.append(len(shown) - 1)
            wanted += segment.tokens.tolist()
        else:
            shown += segment.tokens.tolist()
    return np.array(shown, np.int64), np.array(hidden, np.int64), np.array(wanted, np.int64)
