"""Whether a text that ends without a mark was cut, told from the other texts: people leave the last mark out, but do
not stop behind "the", or within a word.

A word that texts hardly ever end a sentence with is open: behind it more was to come. A word that stands nowhere else
and begins a known one is a piece.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left

import numpy as np

MOST_TEXTS, MOST_WORDS = 20_000, 50_000  # that are learned from, and that are kept to know pieces by
TABLE = 2**18  # places in which words are counted
LEAST = 60  # times that a word has to stand there: then some sentence would have ended with it (1 of 15 words does)
ENDING_FRAC = 0.005  # of the times that it stands there, at which it may end a sentence all the same
LEAST_PIECE = 2  # letters of a piece
MOST_LETTERS = 80  # of a last word
ADDRESS = re.compile(r"[/@\\]|\w\.\w")
OPEN = tuple(",-–—=(&+")
WORD = re.compile(r"([^\W\d_]+)(['’][^\W\d_]+)?(\s*[.!?…。！？।:;)\]\n\"”]|\s*\Z)?")


class Endings:
    """Of the words of texts that end with a mark: how often each stands there, and how often at an end."""

    def __init__(self) -> None:
        self._num, self._at_end = np.zeros(TABLE, np.int32), np.zeros(TABLE, np.int32)
        self._known: set[str] = set()
        self._sorted: list[str] = []
        self._num_texts = 0

    def learn(self, text: str) -> None:
        if self._num_texts >= MOST_TEXTS:
            return
        self._num_texts += 1
        for found in WORD.finditer(text):
            word = (found[1] + (found[2] or "")).casefold()
            place = zlib.crc32(word.encode("utf-8", "surrogatepass")) % TABLE
            self._num[place] += 1
            self._at_end[place] += found[3] is not None
            if len(self._known) < MOST_WORDS:
                self._known.add(word)

    def is_cut(self, text: str) -> bool:
        """Of a text without an end mark."""
        if text.rstrip().endswith(OPEN):
            return True
        piece = text.rstrip()[-MOST_LETTERS:].split()[-1]
        *_, last = WORD.finditer(piece) if WORD.search(piece) else (None,)
        if last is None or last.end() < len(piece) or ADDRESS.search(piece):  # a number, say
            return False
        word = (last[1] + (last[2] or "")).casefold()
        place = zlib.crc32(word.encode("utf-8", "surrogatepass")) % TABLE
        if self._num[place] >= LEAST:
            return bool(self._at_end[place] <= ENDING_FRAC * self._num[place])
        return self._num[place] == 0 and len(word) >= LEAST_PIECE and self._begins(word)

    def _begins(self, word: str) -> bool:
        """Whether a known word does so."""
        self._sorted = self._sorted or sorted(self._known)
        at = bisect_left(self._sorted, word)
        return at < len(self._sorted) and self._sorted[at].startswith(word)
