"""What can be seen in a text: constraints kept, a refusal, a loop, an insult, an answer's use of what it was given."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.errors import DataError

WORD = re.compile(r"\w+(?:['’-]\w+)*")
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)
REFUSALS = re.compile(
    r"\b(?:i\s+(?:can(?:no|['’])t|can not|am not able to|am unable to|won['’]?t|will not|must decline)|"
    r"i['’]?m (?:not able|unable|sorry|afraid)|sorry,? (?:but )?i|i refuse|"
    r"(?:is|would be) (?:illegal|unethical|dangerous|harmful)|not (?:appropriate|ethical|legal)|against the law|"
    r"cannot (?:help|assist|provide|support)|seek (?:professional )?help|please (?:do not|don['’]?t))\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
LIST_MARK = re.compile(r"^\s*\d+[.)](?=\s)", re.MULTILINE)
WORD_OR_PART = re.compile(r"[^\W\d_]+")
TURN_MARKS = re.compile(
    r"<\|\w+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|^\s*(?:user|assistant|human|system)\s*(?::|$)",
    re.MULTILINE | re.IGNORECASE,
)
LEAST_LETTERS = 3  # of a text whose script is told
ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}  # Japanese is written in all three
LEAST_SHARED = 3  # words that an answer must have from its source, to count as one about it
CONTENT_LETTERS = 4  # of a word that says what a text is about
# The commonest short words of a language, few of which the others have.
SHORT_WORDS = {
    "en": "the and is are of to in that it was with for he she this",
    "de": "der die das und ist ein eine einen nicht mit den dem auf im sehr er sie hat ich",
    "es": "el la los las es una un de en con por para que muy su y mi del está tiene",
    "fr": "le la les est une un de des et dans avec pour que il elle très du ce je",
}
# A capital that does not begin a sentence: a name, in the languages that write names so.
NAME = re.compile(r"\b[A-ZÀ-Þ][\w'’-]+(?: +[A-ZÀ-Þ][\w'’-]+)*")
SENTENCE_MARKS = '.!?:;\n"“”(•*–—-'
SMALL_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
NUMBER_WORDS = {
    **{word: n for n, word in enumerate(SMALL_NUMBERS)},
    **{word: 10 * n for n, word in enumerate(TENS, 2)},
    **{word: n for n, word in enumerate(ORDINALS, 1)},
    **MULTIPLIERS,
}


def words(text: str) -> list[str]:
    return WORD.findall(text)


def num_sentences(text: str) -> int:
    return len(SENTENCE_END.findall(text)) or int(bool(text.strip()))


def json_object(text: str) -> dict[str, Any] | None:
    """The object that the whole text is, also inside a code fence."""
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def number_of(text: str) -> float | None:
    """The number that the whole text is; commas between groups of three digits are left out."""
    bare = text.strip().rstrip(".")
    return float(bare.replace(",", "")) if re.fullmatch(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?", bare) else None


def language(text: str) -> str:
    """The language of SHORT_WORDS that has most of the text's words; "" where none has any, or two have as many."""
    said = [w.lower() for w in words(text)]
    counts = sorted(
        ((sum(w in known.split() for w in said), name) for name, known in SHORT_WORDS.items()), reverse=True
    )
    return counts[0][1] if counts[0][0] > counts[1][0] else ""


def script(text: str) -> str:
    """The script that most letters are of, as Unicode names it; "" where there are too few to tell."""
    letters = [unicodedata.name(c, "?").split()[0] for c in text[:2000] if c.isalpha()]
    names = Counter(ONE_SCRIPT.get(name, name) for name in letters)
    return names.most_common(1)[0][0] if len(letters) >= LEAST_LETTERS else ""


def begins_with(text: str, value: str) -> bool:
    return text.strip().lstrip("\"'“*#").lower().startswith(value.lower())


Check = Callable[[str, Any], bool]
CHECKS: dict[str, Check] = {
    "max_words": lambda text, value: 0 < len(words(text)) <= value,
    "min_words": lambda text, value: len(words(text)) >= value,
    "num_words": lambda text, value: len(words(text)) == value,
    "num_sentences": lambda text, value: num_sentences(text) == value,
    "num_bullets": lambda text, value: len(BULLET.findall(text)) == value,
    "num_lines": lambda text, value: len([x for x in text.splitlines() if x.strip()]) == value,
    "num_commas": lambda text, value: text.count(",") == value,
    "contains": lambda text, value: value.lower() in text.lower(),
    "contains_as_written": lambda text, value: value in text,
    "contains_any": lambda text, value: any(v.lower() in text.lower() for v in value),
    "lacks": lambda text, value: bool(text.strip()) and value.lower() not in text.lower(),
    "begins": begins_with,
    "ends": lambda text, value: text.strip().rstrip(".!?\"'”*").lower().endswith(value.lower()),
    "last_mark": lambda text, value: text.strip().endswith(value),
    "one_of": lambda text, value: text.strip().strip(".!\"'*").lower() in [v.lower() for v in value],
    "upper": lambda text, value: any(c.isalpha() for c in text) and text == text.upper(),
    "lower": lambda text, value: any(c.isalpha() for c in text) and text == text.lower(),
    "is_number": lambda text, value: number_of(text) is not None,
    "number_between": lambda text, value: (found := number_of(text)) is not None and value[0] <= found <= value[1],
    "json_object": lambda text, value: json_object(text) is not None,
    "json_keys": lambda text, value: (found := json_object(text)) is not None and sorted(found) == sorted(value),
    "language": lambda text, value: language(text) == value,
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


def has_turn_marks(text: str) -> bool:
    """Markers of a chat template, or a next turn that the model wrote itself: what a reader should never see."""
    return bool(TURN_MARKS.search(text))


def shared_words(text: str, other: str) -> int:
    """Different words of content that both texts have; a plural is its singular."""
    return len(content_words(text) & content_words(other))


def content_words(text: str) -> set[str]:
    return {w.lower().rstrip("s") for w in words(text) if len(w) >= CONTENT_LETTERS}


def insults(text: str, stems: Sequence[str]) -> list[str]:
    """Words of the text that begin with one of the listed stems. A list sees words, not meaning."""
    return [w for w in words(text.lower()) if any(w.startswith(stem) for stem in stems)]


def unsupported(text: str, source: str) -> list[str]:
    """Numbers and names of the text that its source does not have: what a faithful answer would not bring along.

    Numbers are compared without their separators, and a source may spell them; of a name, each word counts, without its
    plural or possessive s. Names are seen in scripts with capitals.
    """
    has_numbers = {digits(n) for found in NUMBER.findall(source) for n in (found, *re.split("[:/]", found))}
    has_numbers |= spelled(source)
    has_words = {singular(part) for w in words(source) for part in (w, *w.split("-"))}
    found = [n for n in NUMBER.findall(LIST_MARK.sub("", text)) if digits(n) not in has_numbers]
    for name in NAME.finditer(text):
        before = text[: name.start()].rstrip(" \t")
        begins = not before or before[-1] in SENTENCE_MARKS
        parts = [p for w in words(name[0])[begins:] for p in ((w,) if singular(w) in has_words else w.split("-"))]
        found += [p for p in parts if len(p) > 2 and singular(p) not in has_words]
    return found


def singular(word: str) -> str:
    return re.sub("['’]s$|s$", "", word.lower())


def digits(number: str) -> str:
    return re.sub(r"[.,]", "", number).lstrip("0") or "0"


def spelled(text: str) -> set[str]:
    """Numbers that stand in English words, as digits: "twenty-five" gives 20, 5 and 25, "second" gives 2."""
    found: set[str] = set()
    for run in re.split(r"[,.;:!?\n]", text.lower()):
        total = 0
        for word in WORD_OR_PART.findall(run):
            value = NUMBER_WORDS.get(word)
            if value is None:
                total = total if word == "and" else 0
                continue
            if word in MULTIPLIERS:
                total = max(total, 1) * value
            elif 10 < total < 21 and value > 9:
                total = 100 * total + value  # a year as it is spoken
            else:
                total = total + value if 0 < value < lowest_place(total) else value
            found |= {str(value), str(total)}
    return found


def lowest_place(number: int) -> int:
    """100 of 300, 10 of 20, 1 of 25: what may be added to a spelled number is smaller."""
    return 10 ** (len(str(number)) - len(str(number).rstrip("0"))) if number else 0
