"""The words of a text in any script, for ROUGE, whose own tokenizer knows a to z and 0 to 9 only."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

# Scripts written without spaces between words: there a character counts as a word, as is usual for ROUGE in Chinese.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI")
LONG = 3  # letters; shorter words are not stemmed, as in rouge-score


@lru_cache(maxsize=16_384)
def kind(char: str) -> str:
    """ "gap", "word" (part of one) or "alone" (a word by itself); a mark belongs to what it stands on."""
    group = unicodedata.category(char)[0]
    if group == "M":
        return "mark"
    if group not in "LN":
        return "gap"
    return "alone" if unicodedata.name(char, "").startswith(UNSPACED) else "word"


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters, digits and their marks (canonical composition); single characters, with their marks,
    in scripts without spaces."""
    found: list[str] = []
    last = "gap"
    for char in unicodedata.normalize("NFC", text.lower()):
        now = kind(char)
        if now == "mark":
            if last != "gap":
                found[-1] += char
            continue
        if now == "alone" or (now == "word" and last != "word"):
            found.append(char)
        elif now == "word":
            found[-1] += char
        last = now
    return found


@cache
def stemmer() -> PorterStemmer:
    from nltk.stem.porter import PorterStemmer  # a second to import

    return PorterStemmer()


@lru_cache(1 << 16)
def stem(word: str) -> str:
    """Half of the time of ROUGE without the cache: cases repeat their words."""
    return stemmer().stem(word)


class Words:
    """In the shape that rouge-score asks for. English words are stemmed (Porter) as it does itself; for a text of ASCII
    alone the result is that of its own tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return [stem(w) if w.isascii() and len(w) > LONG else w for w in words_of(text)]
