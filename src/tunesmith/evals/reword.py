"""An instruction in other words: another kind of sentence (a question, a polite form, a task) and other words for the
same, from tables written for this project. What it names stays: labels, what stands in quotes or braces, numbers.

The tables are English. Where none of them fits, the instruction stays whole and gets another beginning or end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NUM_WAYS = 4  # of an instruction; each is asked a part of the cases, so that no single one decides
WHOLE = (  # around an instruction none of whose words are known
    "Please do the following. {0}",
    "{0} Thank you.",
    "Here is what you have to do: {0}",
    "You get one message. {0}",
)
STATEMENTS = (  # around a sentence that tells somebody to do something, without its end
    "Please {0}", "Your task is to {0}", "I need you to {0}", "You are asked to {0}", "It is your job to {0}",
)  # fmt: skip
QUESTIONS = ("Could you {0}?", "Would you please {0}?", "Can you {0}?", "Would you be so kind as to {0}?")
VERBS = frozenset(
    [
        "act",
        "answer",
        "assign",
        "calculate",
        "choose",
        "classify",
        "compare",
        "complete",
        "compose",
        "compute",
        "continue",
        "convert",
        "correct",
        "create",
        "decide",
        "describe",
        "detect",
        "determine",
        "explain",
        "extract",
        "fill",
        "find",
        "generate",
        "give",
        "identify",
        "label",
        "list",
        "make",
        "name",
        "pick",
        "predict",
        "provide",
        "put",
        "rank",
        "rate",
        "read",
        "reply",
        "respond",
        "return",
        "rewrite",
        "say",
        "select",
        "solve",
        "sum",
        "summarise",
        "summarize",
        "tag",
        "tell",
        "think",
        "translate",
        "turn",
        "use",
        "write",
    ]
)
OTHERWISE: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (pattern, tuple(ways.split("|")))
    for pattern, ways in (
        (r"answer with", "reply with|respond with"),
        (r"(?:reply|respond) with", "answer with"),
        (r"exactly one of", "just one of|one, and only one, of"),
        (r"(?<=\w )only(?=[.!])", "and nothing else"),
        (r"using only", "with nothing but"),
        (r"summari[sz]e(?= (?:the|this|these|what|it)\b)", "sum up|give a summary of"),
        (r"translate(?= (?:the|this|these|what)\b)", "give a translation of"),
        (r"classify(?= (?:the|this|these|each|every)\b)", "categorise|sort"),
        (r"extract(?= (?:the|all|every|any|each)\b)", "pull out|pick out"),
        (r"write(?= (?:an?|the|one)\b)", "compose|draft"),
        (r"give(?= (?:an?|the|your)\b)", "provide|state"),
        (r"use(?= the\b)", "make use of|take"),
        (r"(?:calculate|compute|determine)", "work out"),
        (r"(?:choose|select)", "pick"),
        (r"identify", "name"),
        (r"return(?= (?:an?|the|only|one)\b)", "give back"),
        (r"the text", "the passage|the given text"),
        (r"the question", "the question that is asked"),
        (r"these labels", "these categories"),
        (r"short", "brief"),
        (r"(?:brief|concise)", "short"),
        (r"should", "ought to"),
        (r"make sure(?: that)?(?! to)", "see to it that"),
        (r"do not", "don't"),
        (r"don['’]t", "do not"),
        (r"you are(?= an?\b)", "you act as|you work as"),
        (r"(?:based on|according to)", "going by"),
        (r"in one (?=sentence|word|line)", "in a single "),
        (r"step by step", "one step after the other"),
        (r"each(?! of\b)", "every"),
        (r"please", "kindly"),
    )
)
KNOWN = re.compile(
    "|".join(f"(?P<w{k}>\\b{pattern}(?!\\w))" for k, (pattern, _) in enumerate(OTHERWISE)), re.IGNORECASE
)
NAMED = r"\"[^\"]*\"|“[^”]*”|'[^'\n]*'(?!\w)|`[^`]*`|\{[^}]*\}|<[^>]*>"
STANDS = "\ue000"  # for what stays as it is
SENTENCE = re.compile(r"(?<=[.!?:])(\s+)")


def reworded(text: str, rng: random.Random, keep: Sequence[str] = ()) -> str:
    """`keep`: what is not to be touched, such as labels."""
    kept = "|".join(
        [NAMED, *(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(keep, key=len, reverse=True) if name)]
    )
    named = re.findall(kept, text)
    pieces = SENTENCE.split(re.sub(kept, STANDS, text))
    is_framed = False
    for k in range(0, len(pieces), 2):
        said = KNOWN.sub(lambda found: otherwise(found, rng), pieces[k])
        if not is_framed and (verb := re.match(r"[^\W\d_]+", pieces[k])) and verb[0].lower() in VERBS:
            said, is_framed = framed(said, rng), True
        pieces[k] = said
    whole = "".join(pieces)
    for name in named:
        whole = whole.replace(STANDS, name, 1)
    return rng.choice(WHOLE).format(text) if whole == text else whole


def otherwise(found: re.Match[str], rng: random.Random) -> str:
    """Another way to say it, with a capital where it had one."""
    assert found.lastgroup is not None
    new = rng.choice(OTHERWISE[int(found.lastgroup[1:])][1])
    return new[0].upper() + new[1:] if found[0][0].isupper() else new


def framed(sentence: str, rng: random.Random) -> str:
    bare = sentence.rstrip(".!")
    end = sentence[len(bare) :]
    said = bare[0].lower() + bare[1:]
    if end:  # a colon introduces something, and a question would not
        frame = rng.choice(STATEMENTS + QUESTIONS)
        return frame.format(said) + ("" if frame in QUESTIONS else end)
    return rng.choice(STATEMENTS).format(said)


def ways(text: str, seed: int, keep: Sequence[str] = ()) -> tuple[str, ...]:
    """Up to NUM_WAYS different ways to say it; none of an empty text."""
    if not text.strip():
        return ()
    drawn = (reworded(text, random.Random(f"{seed} {k}"), keep) for k in range(4 * NUM_WAYS))
    return tuple(dict.fromkeys(drawn))[:NUM_WAYS]
