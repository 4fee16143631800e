"""What can be seen in a text by itself: constraints kept, a refusal, a loop, an insult, a claim without a source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError

WORD = re.compile(r"\w+(?:['’-]\w+)*")
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
REFUSALS = re.compile(
    r"\b(?:i\s+(?:can(?:no|')t|can not|am not able to|am unable to|won'?t|will not|must decline)|"
    r"i'?m (?:not able|unable|sorry|afraid)|sorry,? (?:but )?i|i refuse|(?:is|would be) (?:illegal|unethical|dangerous|"
    r"harmful)|not (?:appropriate|ethical|legal)|against the law|cannot (?:help|assist|provide|support)|"
    r"seek (?:professional )?help|please (?:do not|don'?t))\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
# A capital that does not begin a sentence: a name, in the languages that write names so.
NAME = re.compile(r"(?<![.!?:\n\"“] )(?<!^)\b(?:[A-ZÀ-Þ][\w'’-]+)(?:\s+[A-ZÀ-Þ][\w'’-]+)*", re.MULTILINE)


def words(text: str) -> list[str]:
    return WORD.findall(text)


def num_sentences(text: str) -> int:
    return len(SENTENCE_END.findall(text)) or int(bool(text.strip()))


def is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


CHECKS = {
    "max_words": lambda text, value: 0 < len(words(text)) <= value,
    "num_words": lambda text, value: len(words(text)) == value,
    "num_sentences": lambda text, value: num_sentences(text) == value,
    "num_bullets": lambda text, value: len(BULLET.findall(text)) == value,
    "contains": lambda text, value: value.lower() in text.lower(),
    "lacks": lambda text, value: bool(text.strip()) and value.lower() not in text.lower(),
    "begins": lambda text, value: text.strip().lower().startswith(value.lower()),
    "ends": lambda text, value: text.strip().rstrip(".!?\"'”").lower().endswith(value.lower()),
    "one_of": lambda text, value: text.strip().strip(".!\"'").lower() in [v.lower() for v in value],
    "upper": lambda text, value: any(c.isalpha() for c in text) and text == text.upper(),
    "lower": lambda text, value: any(c.isalpha() for c in text) and text == text.lower(),
    "is_number": lambda text, value: bool(re.fullmatch(r"\s*-?\d+(?:[.,]\d+)*\s*\.?\s*", text)),
    "json_object": lambda text, value: is_json_object(text.strip()),
    "num_commas": lambda text, value: text.count(",") == value,
}


def kept(text: str, checks: Sequence[Mapping[str, Any]]) -> float:
    """1 where every constraint is kept. Each is {"kind": a name of CHECKS, "value": what it needs}."""
    for check in checks:
        if check["kind"] not in CHECKS:
            raise DataError(f"unknown check {check['kind']!r}; known: {', '.join(sorted(CHECKS))}")
    return float(all(CHECKS[c["kind"]](text, c.get("value")) for c in checks))


def is_refusal(text: str) -> bool:
    """A refusal, an apology in its place, or a warning instead of help, near the beginning. English."""
    return bool(REFUSALS.search(text[:300]))


def is_loop(text: str) -> bool:
    """The text ends in one piece of up to 12 words, written at least 4 times in a row (8 times for single words)."""
    said = [w.lower() for w in words(text)]
    for length in range(1, 13):
        times = 8 if length == 1 else 4
        if len(said) >= length * times:
            tail = said[-length * times :]
            if tail == tail[:length] * times:
                return True
    return False


def insults(text: str, stems: Sequence[str]) -> list[str]:
    """Words of the text that begin with one of the listed stems. A list sees words, not meaning."""
    return [w for w in words(text.lower()) if any(w.startswith(stem) for stem in stems)]


def unsupported(text: str, source: str) -> list[str]:
    """Numbers and names of the text that its source does not have: what a faithful answer would not bring along.

    Numbers are compared without their separators; of a name, each word counts. Names are seen in scripts with capitals.
    """
    has_numbers = {digits(n) for n in NUMBER.findall(source)}
    has_words = {w.lower().removesuffix("'s").removesuffix("’s") for w in words(source)}
    found = [n for n in NUMBER.findall(text) if digits(n) not in has_numbers]
    for name in NAME.findall(text):
        parts = [w.removesuffix("'s").removesuffix("’s") for w in words(name)]
        found += [p for p in parts if len(p) > 2 and p.lower() not in has_words]
    return found


def digits(number: str) -> str:
    return re.sub(r"[.,]", "", number).lstrip("0") or "0"
