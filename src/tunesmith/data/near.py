"""Texts that are nearly the same, by MinHash over their words: few words edited, sentences or words in another order.

Broder 1997 ("On the resemblance and containment of documents"): the share of equal minima of two texts under many
hash functions estimates the Jaccard similarity of their sets of words. BANDS x ROWS of them are looked at band by band:
texts that agree in a whole band are compared word by word. Words are weighed by how rare they are, so that an
instruction that all rows share counts nothing. Digits are masked. Words and bands stand in
files; in memory are some numbers a text.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from tunesmith.data.progress import EVERY, Step, untold
from tunesmith.data.stored import open_unnamed, put
from tunesmith.data.traits import masked, normalised

BANDS, ROWS = 24, 5  # similarity 0.7 shares a band in 98.8 of 100 pairs, 0.8 in all but 1 of 10,000, 0.3 in 5.7
LEAST = 0.7  # weighted similarity, from which on two texts are nearly the same
LEAST_WORDS = 5  # different ones of a text; shorter ones are told apart by a word
MOST_WORDS = 512  # of a text, those with the smallest hashes: a sample that is the same for the same words
COMMON_FRAC = 0.5  # words of more texts than this are left out of the minima
PIECE = 4096  # texts that are worked on at a time
PART = 2**14  # texts whose keys are sorted at a time
PARTNERS = 8  # texts of a bucket that one is compared with
TABLE = 2**20  # places in which the texts of a word are counted
SPACELESS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # writings without spaces: letter by letter
WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")


class Words:
    """The different words of each text, as hashes, in a file; and in how many texts each stands."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._file = open_unnamed(self)
        self.num_of_word = np.zeros(TABLE, np.int32)
        sizes: list[np.ndarray] = []
        stream = iter(texts)
        while some := list(islice(stream, PIECE)):
            sets = [words_of(text) for text in some]
            sizes.append(np.array([len(s) for s in sets], np.uint16))
            joined = np.concatenate(sets)
            put(self._file, joined.tobytes())
            np.add.at(self.num_of_word, joined % TABLE, 1)
        num_words = sum(int(some.sum()) for some in sizes)
        self.stops = np.zeros(sum(map(len, sizes)) + 1, np.uint32 if num_words < 2**32 else np.int64)
        np.cumsum(np.concatenate([np.empty(0, np.uint16), *sizes]), dtype=self.stops.dtype, out=self.stops[1:])

    def __len__(self) -> int:
        return len(self.stops) - 1

    def between(self, begin: int, end: int) -> np.ndarray:
        """Of the texts begin … end-1, one behind the other."""
        first, last = int(self.stops[begin]), int(self.stops[end])
        return np.frombuffer(os.pread(self._file, 4 * (last - first), 4 * first), np.uint32)

    def weights(self, words: np.ndarray) -> np.ndarray:
        """How rare: the logarithm of texts per text with it."""
        return np.log((len(self) + 1) / np.maximum(1, self.num_of_word[words % TABLE])).astype(np.float32)

    def similarity(self, pairs: np.ndarray, *, weighed: bool = True) -> np.ndarray:
        """[n, 2] texts -> Jaccard similarity [n]: weight of the words in both, of that in either; or their number."""
        found = np.empty(len(pairs), np.float32)
        for begin in range(0, len(pairs), PIECE):
            some = pairs[begin : begin + PIECE]
            sets = [self.between(int(at), int(at) + 1) for pair in some for at in pair]
            owner = np.repeat(np.arange(len(some)), [len(a) + len(b) for a, b in zip(sets[::2], sets[1::2])])
            words = np.concatenate(sets)
            order = np.lexsort((words, owner))
            owner, words = owner[order], words[order]
            is_second = np.zeros(len(words), bool)  # of two equal words of one pair
            is_second[1:] = (words[1:] == words[:-1]) & (owner[1:] == owner[:-1])
            weights = self.weights(words) if weighed else np.ones(len(words), np.float32)
            both = np.bincount(owner[is_second], weights[is_second], len(some))
            either = np.bincount(owner[~is_second], weights[~is_second], len(some))
            found[begin : begin + PIECE] = both / np.maximum(either, 1e-9)
        return found


def words_of(text: str) -> np.ndarray:
    """Hashes of the different words, digits masked; sorted."""
    words = {zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in WORD.findall(masked(normalised(text)))}
    return np.array(sorted(words)[:MOST_WORDS], np.uint32)


class Bands:
    """Of each text a key per band, in a file, band by band. Texts with few words of their own have none."""

    def __init__(self, words: Words, step: Step = untold) -> None:
        self._file, self._num = open_unnamed(self), len(words)
        self.step = step if self._num > EVERY else untold
        os.ftruncate(self._file, 8 * BANDS * self._num)
        self.is_keyed = np.zeros(self._num, bool)
        draw = np.random.default_rng(0)
        times, plus, mix = (draw.integers(0, 2**64, BANDS * ROWS, dtype=np.uint64) | np.uint64(1) for _ in range(3))
        most = COMMON_FRAC * self._num if self._num >= 100 else self._num
        for begin in range(0, self._num, PIECE):
            end = min(begin + PIECE, self._num)
            self.step(end, self._num, "texts hashed, to find near copies")
            joined = words.between(begin, end)
            owner = np.repeat(np.arange(end - begin), np.diff(words.stops[begin : end + 1]))
            is_rare = words.num_of_word[joined % TABLE] <= most
            joined, owner = joined[is_rare].astype(np.uint64), owner[is_rare]
            sizes = np.bincount(owner, minlength=end - begin)
            self.is_keyed[begin:end] = sizes >= LEAST_WORDS
            firsts = np.cumsum(sizes) - sizes
            there = sizes > 0
            for band in range(BANDS):
                key = np.zeros(end - begin, np.uint64)
                for row in range(ROWS):
                    k = band * ROWS + row
                    hashed = (joined * times[k] + plus[k]) >> np.uint64(32)  # multiply-shift
                    if there.any():
                        key[there] += np.minimum.reduceat(hashed, firsts[there]) * mix[k]
                os.pwrite(self._file, key.tobytes(), 8 * (band * self._num + begin))

    def buckets(self, band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Part for part of the keys, so that memory does not grow with the texts: those with equal keys side by side,
        in their order, and the number of each one's bucket. Texts alone in their bucket are left out."""
        num_parts = np.uint64(-(-self._num // PART) or 1)
        for part in range(int(num_parts)):
            found = [self._of_part(band, begin, part, num_parts) for begin in range(0, self._num, PART)]
            index, keys = (np.concatenate(some) for some in zip(*found))
            order = np.argsort(keys, kind="stable")
            index, keys = index[order], keys[order]
            is_like_last = np.concatenate([[False], keys[1:] == keys[:-1]])
            is_shared = is_like_last | np.concatenate([is_like_last[1:], [False]])
            if is_shared.any():
                yield index[is_shared], np.cumsum(~is_like_last)[is_shared]

    def _of_part(self, band: int, begin: int, part: int, num_parts: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        num = min(PART, self._num - begin)
        keys = np.frombuffer(os.pread(self._file, 8 * num, 8 * (band * self._num + begin)), np.uint64)
        at = np.flatnonzero(self.is_keyed[begin : begin + num] & ((keys >> np.uint64(32)) % num_parts == part))
        return at + begin, keys[at]


def side_by_side(bands: Bands, among: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs [n, 2] of texts that share a bucket: each with one of `among` (marks) before it, at first the nearest, then
    the next ones, up to PARTNERS."""
    for band in range(BANDS):
        for index, bucket in bands.buckets(band):
            place = np.maximum.accumulate(np.where(among[index], np.arange(len(index)), -1))  # the last up to here
            before = np.arange(len(index))
            for _ in range(PARTNERS):
                before = np.where(before > 0, place[before - 1], -1)
                fits = before >= 0
                fits[fits] = bucket[before[fits]] == bucket[fits]
                if not fits.any():
                    break
                yield np.stack([index[fits], index[before[fits]]], axis=1)
        bands.step(band + 1, BANDS, "rounds of comparing near copies")


def near_earlier(words: Words, bands: Bands, wanted: np.ndarray, among: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """(text, an earlier one of `among` that is nearly the same, similarity), for `wanted` texts, each once: the first
    such that is found. Both are marks [n]."""
    is_open = wanted.copy()
    for side in side_by_side(bands, among):
        pairs = side[is_open[side[:, 0]]]
        for text, other, alike in alike_in(words, pairs):
            is_open[text] = False
            yield text, other, alike


def alike_in(words: Words, pairs: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Those of the pairs that are nearly the same, with their similarity."""
    likeness = words.similarity(pairs)
    is_near = likeness >= LEAST
    for (one, other), alike in zip(pairs[is_near].tolist(), likeness[is_near].tolist()):
        yield one, other, alike
