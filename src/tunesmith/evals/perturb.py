"""A prompt as it also comes in: with slips of the keyboard, other case, other punctuation, a sentence that is not to
the point, or the instruction in other words. What the right answer is, none of these changes: words that stand in the
reference are left as they are.

Every change is drawn from the seed, the kind and the example's id: the same run asks the same again, both models are
asked the same, and no order of cases matters.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tunesmith.evals.reword import ways
from tunesmith.evals.tasks import Form, answer_text
from tunesmith.types import Example, Message

NEIGHBOURS = {  # on an English keyboard
    "a": "qwsz", "b": "vghn", "c": "xdfv", "d": "serfcx", "e": "wsdr", "f": "drtgvc", "g": "ftyhbv", "h": "gyujnb",
    "i": "ujko", "j": "huikmn", "k": "jiolm", "l": "kop", "m": "njk", "n": "bhjm", "o": "iklp", "p": "ol", "q": "wa",
    "r": "edft", "s": "awedxz", "t": "rfgy", "u": "yhji", "v": "cfgb", "w": "qase", "x": "zsdc", "y": "tghu",
    "z": "asx",
}  # fmt: skip
MARKS = ",.!?;:"
WORD = re.compile(r"\w+")
ASIDES = (  # true, dull, and about nothing that anybody is asked for
    "The weather was mild that week.",
    "A bus stops at the corner every twenty minutes.",
    "The kitchen window looks out on a small garden.",
    "My neighbour paints her fence every other spring.",
    "There are seven steps from the street to the door.",
    "The clock in the hall is four minutes fast.",
    "Somebody left a blue umbrella on the train.",
    "The radio played quietly in the next room.",
)
SECTION = re.compile(r"[^\W\d_][\w -]{0,30}:\s")  # how a part of a prompt that came from a column begins


@dataclass(frozen=True, slots=True)
class Change:
    """One way to put a case otherwise. `frac`: share of the letters (typos, case) or words (punctuation) it changes, or
    of the words that come to them (distractor, a sentence at least); 0 where it changes a thing as a whole."""

    name: str
    frac: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.name}, {self.frac:.0%}" if self.frac else self.name


QUICK = (
    Change("typos", 0.1),
    Change("case", 0.1),
    Change("punctuation", 0.1),
    Change("wording"),
    Change("distractor", 0.1),
)
FULL = (
    *(Change(name, frac) for name in ("typos", "case", "punctuation", "distractor") for frac in (0.05, 0.1)),
    Change("wording"), Change("order"),
)  # fmt: skip


def dice(seed: int, change: Change, example_id: str) -> random.Random:
    key = f"{seed}\0{change.title}\0{example_id}"
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))


def chosen(places: Sequence[int], frac: float, rng: random.Random) -> list[int]:
    """So many of the places, at least one where there are any, from the last to the first."""
    num = min(len(places), max(1, round(frac * len(places))))
    return sorted(rng.sample(list(places), num), reverse=True) if places else []


Keep = Sequence[bool]  # of each character: whether it stays as it is


def kept(text: str, reference: str) -> list[bool]:
    """The characters of words that the reference has too, without regard to case."""
    known = set(WORD.findall(reference.lower()))
    stays = [False] * len(text)
    for word in re.finditer(r"\S+", text):
        if known.intersection(WORD.findall(word[0].lower())):
            stays[word.start() : word.end()] = [True] * len(word[0])
    return stays


def typos(text: str, frac: float, rng: random.Random, keep: Keep) -> str:
    """Letters a to z that are swapped with the next, doubled, left out, or hit one key beside. Digits, and letters of
    other scripts, stay: a wrong digit would change what is asked."""
    letters = list(text)
    for at in chosen([k for k, c in enumerate(text) if c.lower() in NEIGHBOURS and not keep[k]], frac, rng):
        kind = rng.choice(("swapped", "doubled", "left out", "beside"))
        letter = text[at]
        is_next = at + 1 < len(text) and text[at + 1].lower() in NEIGHBOURS
        if kind == "swapped" and is_next and letters[at + 1] != letter:
            letters[at : at + 2] = [letters[at + 1], letter]
        elif kind == "doubled":
            letters[at] = letter * 2
        elif kind == "left out":
            letters[at] = ""
        else:
            near = rng.choice(NEIGHBOURS[letter.lower()])
            letters[at] = near.upper() if letter.isupper() else near
    return "".join(letters)


def case(text: str, frac: float, rng: random.Random, keep: Keep) -> str:
    """Letters in the other case."""
    letters = list(text)
    both = [k for k, c in enumerate(text) if len(c.swapcase()) == 1 and c.swapcase() != c and not keep[k]]
    for at in chosen(both, frac, rng):
        letters[at] = text[at].swapcase()
    return "".join(letters)


def punctuation(text: str, frac: float, rng: random.Random, keep: Keep) -> str:
    """Ends of words that lose their mark, or get one they did not have. Marks inside of words and numbers stay."""
    ends = [m.end() for m in re.finditer(r"\S+", text) if not keep[m.start()]]
    letters = list(text)
    for end in chosen(ends, frac, rng):
        if text[end - 1] in MARKS and (end < 2 or text[end - 2] not in MARKS):
            letters[end - 1] = ""
        else:
            letters[end - 1] += rng.choice(MARKS)
    return "".join(letters)


def distractor(text: str, frac: float, rng: random.Random, keep: Keep) -> str:
    """Sentences that have nothing to do with it, before, behind and between: one, and more until they make up this
    share of the text's words."""
    wanted = frac * len(text.split())
    asides = [rng.choice(ASIDES)]
    while sum(len(a.split()) for a in asides) < wanted:
        asides.append(rng.choice(ASIDES))
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s)", text)]
    for at in sorted((rng.choice([0, len(text), *ends]) for _ in asides), reverse=True):
        text = f"{text[:at]} {asides.pop()} {text[at:].lstrip(' ')}".strip(" ")
    return text


TEXT: dict[str, Callable[[str, float, random.Random, Keep], str]] = {
    "typos": typos, "case": case, "punctuation": punctuation, "distractor": distractor,
}  # fmt: skip


def changed(example: Example, change: Change, labels: Sequence[str], seed: int) -> Example:
    """The example with its last user turn put otherwise, or with a system message of its own in other words; the rest,
    and the answer, stay. The id stays too."""
    return replace(example, prompt=tuple(turns_of(example, change, labels, seed)))


def turns_of(example: Example, change: Change, labels: Sequence[str], seed: int) -> list[Message]:
    turns = list(example.prompt)
    if change.name in ("wording", "order"):
        for k, m in enumerate(turns):
            if m.role == "system":
                turns[k] = replace(m, content=instruction_of(m.content, change, labels, seed, example.id))
    at = max((k for k, m in enumerate(turns) if m.role == "user"), default=None)
    if at is None:
        return turns
    text = turns[at].content
    if change.name == "order":
        turns[at] = replace(turns[at], content=sections_turned(text))
    elif change.name in TEXT:
        rng, stays = dice(seed, change, example.id), kept(text, answer_text(example))
        turns[at] = replace(turns[at], content=TEXT[change.name](text, change.frac, rng, stays))
    return turns


def sections_turned(text: str) -> str:
    """The last part of a prompt first, where all of its parts begin with a name, as those of several columns do."""
    parts = text.split("\n\n")
    return "\n\n".join(reversed(parts)) if all(SECTION.match(part) for part in parts) else text


def instruction_of(instruction: str, change: Change, labels: Sequence[str], seed: int, example_id: str) -> str:
    """The instruction in other words, of which each example gets one of a few, or with its list of labels the other way
    round. The same where neither fits."""
    if change.name == "wording" and (said := ways(instruction, seed, labels)):
        return dice(seed, change, example_id).choice(said)
    listed = ", ".join(labels)
    if change.name == "order" and len(labels) > 1 and listed in instruction:
        return instruction.replace(listed, ", ".join(reversed(labels)))
    return instruction


def form_of(form: Form, change: Change) -> Form:
    """Where the instruction stands: by a change of order behind the input, and behind the solved examples."""
    return replace(form, place="last") if change.name == "order" else form


def applies(change: Change, cases: Sequence[Example], instruction: str, labels: Sequence[str], seed: int) -> bool:
    """Whether the change does anything here: without an instruction there is none to be put in other words."""
    if change.name in TEXT:
        return True
    if instruction or any(m.role == "system" for e in cases for m in e.prompt):
        return True
    return any(changed(e, change, labels, seed) != e for e in cases)
