"""Which language each row asks and answers in, by py3langid (naive Bayes over letters, 140 languages; the extra
`languages`, and the only file that imports it). A text that it is less than 0.9 sure of is "not known", and accused of
nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.data.finding import Finding, finding, replies_of
from tunesmith.data.tally import Tally
from tunesmith.types import Example, Label

SURE = 0.9  # of ten languages of NTREX no sentence is named wrongly from here on
READ = 240  # characters of a text
MAIN_FRAC = 0.8  # of the rows that are known: the language that nearly all are in, where there is one
RARE_FRAC = 0.05
LEAST = 20  # rows that ask in a language, from which on their own replies say what is usual
NOT_SAID, NOT_KNOWN = -1, "not known"
NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|[@#]\w+|<[^>\n]*>", re.DOTALL)
NAMES = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan",
    "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish",
    "gl": "Galician", "gu": "Gujarati", "ha": "Hausa", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "ig": "Igbo", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "kn": "Kannada", "ko": "Korean", "la": "Latin",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ml": "Malayalam", "mr": "Marathi", "ms": "Malay",
    "nb": "Norwegian", "ne": "Nepali", "nl": "Dutch", "nn": "Norwegian", "no": "Norwegian", "pa": "Punjabi",
    "pcm": "Pidgin", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili",
    "ta": "Tamil", "te": "Telugu", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "yo": "Yoruba", "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip
# Who asks for another language names it, or says that something is to be translated
ASKED_FOR = re.compile(
    r"translat|traduc|tradui|traduz|übersetz|vertaal|переведи|翻译|翻訳|\blanguage\b|"
    rf"\b(?:{'|'.join(map(str.lower, sorted({*NAMES.values()})))}|français|deutsch|español|italiano|português)\b"
)
Identify = Callable[[str], str | None]  # a text to the code of its language; None: cannot be said
NO_LIBRARY = (
    "languages were not looked for, only writings: `pip install 'tunesmith[languages]'` brings what tells them apart"
)


def identifier() -> Identify | None:
    """None where py3langid is not installed."""
    if importlib.util.find_spec("py3langid") is None:
        return None
    langid: Any = importlib.import_module("py3langid.langid")
    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)

    def identify(text: str) -> str | None:
        prose = NO_PROSE.sub(" ", text[: 4 * READ])[:READ]
        if not any(map(str.isalpha, prose)):
            return None
        code, chance = model.classify(prose)
        return code if chance >= SURE and code != "zxx" else None  # zxx: no language at all

    return identify


def name_of(code: str) -> str:
    return NAMES.get(code, code)


@dataclass(slots=True)
class Languages:
    """Of each row the languages of prompt and reply as numbers of `codes`, and whether it asks for another one."""

    codes: list[str]
    asked: np.ndarray  # [n] int16; of a plain text its language; NOT_SAID: nothing is there, or it cannot be said
    said: np.ndarray  # [n] int16
    on_request: np.ndarray  # [n] bool
    num_asked: int  # rows with a prompt, or a text
    num_said: int  # rows with a reply that is no label

    def shares(self) -> dict[str, dict[str, int]]:
        """Side -> language -> rows, the most first; "not known" last."""
        found = {}
        for side, column, num in (("prompts", self.asked, self.num_asked), ("replies", self.said, self.num_said)):
            counts = Counter(
                {name_of(self.codes[k]): int(n) for k, n in enumerate(_counts(column, len(self.codes))) if n}
            )
            known = sum(counts.values())
            if num:
                found[side] = dict(counts.most_common()) | ({NOT_KNOWN: num - known} if num > known else {})
        return found


def languages(examples: Iterable[Example], identify: Identify) -> Languages:
    codes: dict[str, int] = {}
    asked, said, on_request = array("h"), array("h"), bytearray()
    num_asked = num_said = 0

    def number(text: str) -> int:
        code = identify(text)
        return NOT_SAID if code is None else codes.setdefault(code, len(codes))

    for example in examples:
        question, answer = sides(example)
        num_asked += bool(question)
        num_said += bool(answer)
        asked.append(number(question))
        said.append(number(answer))
        on_request.append(is_asked_for(example))
    return Languages(
        list(codes), np.array(asked), np.array(said), np.frombuffer(on_request, np.uint8).astype(bool),
        num_asked, num_said,
    )  # fmt: skip


def is_asked_for(example: Example) -> bool:
    """Whether the prompt names a language, or asks for a translation."""
    return any(ASKED_FOR.search(m.content.lower()) is not None for m in example.prompt)


def sides(example: Example) -> tuple[str, str]:
    """What a person asks last and what is answered; of a plain text it and nothing. A label is in no language."""
    replies = replies_of(example)
    if example.is_text:
        return replies[0], ""
    question = next((m.content for m in reversed(example.prompt) if m.role == "user"), "")
    return question, "" if isinstance(example.target, Label) or not replies else replies[0]


def rare(found: Languages) -> np.ndarray:
    """[n] bool: asks in a language that few rows ask in, where nearly all ask in one. A mixture has no odd rows."""
    counts = _counts(found.asked, len(found.codes))
    known = max(1, counts.sum())
    if not counts.size or counts.max() < MAIN_FRAC * known:
        return np.zeros(len(found.asked), bool)
    return (found.asked != NOT_SAID) & (counts[found.asked] < RARE_FRAC * known) & ~found.on_request


def parted(found: Languages) -> tuple[np.ndarray, np.ndarray]:
    """[n] bool: answers in another language than is usual for such a prompt, and did not ask for it; [n] int16: the
    usual one. Of prompts in a language with LEAST rows their replies say it, so that a translation is none; of others
    it is the prompt's own, where nearly all rows answer in that."""
    usual = np.full(len(found.codes), NOT_SAID, np.int16)
    is_known = (found.asked != NOT_SAID) & (found.said != NOT_SAID)
    asked, said = found.asked[is_known], found.said[is_known]
    keeps = asked.size and np.mean(asked == said) >= MAIN_FRAC
    for code in range(len(found.codes)):
        counts = _counts(said[asked == code], len(found.codes))
        if counts.sum() < LEAST:
            usual[code] = code if keeps else NOT_SAID
        elif counts.max() >= MAIN_FRAC * counts.sum():
            usual[code] = counts.argmax()
    own = usual[found.asked] if usual.size else np.full(len(found.asked), NOT_SAID, np.int16)
    return is_known & (own != NOT_SAID) & (found.said != own) & ~found.on_request, own


def _counts(column: np.ndarray, num: int) -> np.ndarray:
    return np.bincount(column[column != NOT_SAID], minlength=num)


def odd(examples: Iterable[Example], found: Languages) -> Iterator[tuple[str, Example, str, int, str]]:
    """(kind of finding, row, text, place, what is there) of each row in a language that is not usual."""
    is_rare, (is_parted, usual) = rare(found), parted(found)
    for k, example in enumerate(examples):
        if is_parted[k]:
            own, other = (name_of(found.codes[c]) for c in (int(found.said[k]), int(usual[k])))
            yield "reply_language", example, sides(example)[1], 0, f"in {own}, not {other}"
        elif is_rare[k]:
            yield "other_language", example, sides(example)[0], 0, f"in {name_of(found.codes[found.asked[k]])}"


def findings(found: Languages, tallies: dict[str, Tally]) -> Iterator[Finding]:
    """`tallies`: of what `odd` has told."""
    if "other_language" in tallies:
        tally = tallies["other_language"]
        yield finding("other_language", tally.count, int((found.asked != NOT_SAID).sum()), tally.rows, (
            "rows are in a language of which there are few", "too few to learn a language from, and often a mistake",
            "add more of them, or drop them"))  # fmt: skip
    if "reply_language" in tallies:
        tally = tallies["reply_language"]
        num = int(((found.asked != NOT_SAID) & (found.said != NOT_SAID)).sum())
        yield finding("reply_language", tally.count, num, tally.rows, (
            "replies are in another language than is usual for their prompt's",
            "the model learns to answer people in a language that they did not use",
            "look at them, and drop them"))  # fmt: skip
