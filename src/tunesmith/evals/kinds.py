"""Kinds of error: what is wrong with an answer, as far as a program can see it. A table of names with their tests.

An answer may be of several kinds, or of none. Nothing here decides whether an answer is wrong: that is the metric's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tunesmith.evals import checks
from tunesmith.evals.json_scores import leaves, parsed, same
from tunesmith.evals.numeric import last_number, numbers_of
from tunesmith.evals.sets import label_set
from tunesmith.evals.words_of import words_of

LONG, SHORT, APART = 2.0, 0.5, 5  # times the reference's words, and so many words apart at least
RUN, COPIED_FRAC, LEAST_COPIED = 5, 0.8, 8  # words in a row; share of such runs; words of an answer
LEAST_WORDS = 8  # of a text whose language is told
POWERS = tuple(Decimal(10) ** k for k in range(-6, 7) if k)
INVENTED = "a field is invented"
SIGNED = re.compile(r"[-−]\d")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer beside what was asked and what was wanted."""

    prompt: str
    reference: str
    answer: str
    stopped: bool  # False: cut off at the limit


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    has: Callable[[Said], bool]
    sentence: str


def is_other_script(said: Said) -> bool:
    ours, theirs = checks.script(said.answer), checks.script(said.reference)
    return bool(ours and theirs and ours != theirs)


def is_other_language(said: Said) -> bool:
    if min(len(checks.words(t)) for t in (said.answer, said.reference)) < LEAST_WORDS:
        return False
    ours, theirs = checks.language(said.answer), checks.language(said.reference)
    return bool(ours and theirs and ours != theirs)


def is_same_words(said: Said) -> bool:
    """The words of the reference and their order; -5 and 5 are not the same."""
    texts = said.answer, said.reference
    got, wanted = map(words_of, texts)
    minus = [len(SIGNED.findall(t)) for t in texts]
    return bool(wanted) and got == wanted and minus[0] == minus[1]


def has_more_around(said: Said) -> bool:
    got, wanted = words_of(said.answer), words_of(said.reference)
    size = len(wanted)
    return 0 < size < len(got) and any(got[k : k + size] == wanted for k in range(len(got) - size + 1))


def is_too_long(said: Said) -> bool:
    got, wanted = len(words_of(said.answer)), len(words_of(said.reference))
    return got > LONG * wanted and got - wanted >= APART


def is_too_short(said: Said) -> bool:
    got, wanted = len(words_of(said.answer)), len(words_of(said.reference))
    return 0 < got < SHORT * wanted and wanted - got >= APART


def runs(text: str) -> list[tuple[str, ...]]:
    said = words_of(text)
    return [tuple(said[k : k + RUN]) for k in range(len(said) - RUN + 1)]


def is_copied(said: Said) -> bool:
    """Most of the answer stands in the prompt word for word, and of the reference not as much."""
    if len(words_of(said.answer)) < LEAST_COPIED:
        return False
    there = set(runs(said.prompt))
    got, wanted = ([run in there for run in runs(text)] for text in (said.answer, said.reference))
    return sum(got) >= COPIED_FRAC * len(got) and not (wanted and sum(wanted) >= COPIED_FRAC * len(wanted))


def brought(said: Said) -> list[str]:
    """Numbers and names of the answer that neither the prompt nor the reference has."""
    return checks.unsupported(said.answer, f"{said.prompt}\n{said.reference}")


def has_new_number(said: Said) -> bool:
    return any(found[0].isdigit() for found in brought(said))


def has_new_name(said: Said) -> bool:
    """Not asked of German, which writes every noun with a capital."""
    if checks.language(said.answer) == "de":
        return False
    return any(not found[0].isdigit() for found in brought(said))


def near(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) <= abs(other) * Decimal("1e-6")


def both_numbers(said: Said) -> tuple[Decimal, Decimal] | None:
    got, wanted = last_number(said.answer), last_number(said.reference)
    return None if got is None or wanted is None else (got, wanted)


def has_it_elsewhere(said: Said) -> bool:
    wanted = last_number(said.reference)
    return wanted is not None and any(near(n, wanted) for n in numbers_of(said.answer))


def is_other_sign(said: Said) -> bool:
    found = both_numbers(said)
    return found is not None and found[1] != 0 and near(-found[0], found[1])


def is_times_ten(said: Said) -> bool:
    found = both_numbers(said)
    return found is not None and 0 not in found and any(near(abs(found[0]), abs(found[1]) * p) for p in POWERS)


def has_json_inside(said: Said) -> bool:
    """An object with something around it: a fence, a sentence."""
    start, end = said.answer.find("{"), said.answer.rfind("}")
    return parsed(said.answer) is None and 0 <= start < end and parsed(said.answer[start : end + 1]) is not None


def is_no_json(said: Said) -> bool:
    return parsed(said.answer) is None and not has_json_inside(said)


EMPTY = Kind("empty", lambda s: not s.answer.strip(), "nothing was written")
CUT = Kind("cut off", lambda s: not s.stopped, "the answer ran into the limit of tokens")
CIRCLES = Kind(
    "runs in circles",
    lambda s: checks.is_loop(s.answer) and not checks.is_loop(s.reference),
    "the answer ends in the same words again and again",
)
REFUSES = Kind(
    "refuses",
    lambda s: checks.is_refusal(s.answer) and not checks.is_refusal(s.reference),
    "a refusal or an apology where the reference has an answer (English)",
)
SCRIPT = Kind("other script", is_other_script, "most letters are of another script than the reference's")
LANGUAGE = Kind(
    "other language", is_other_language, "the short words are of another language (English, German, Spanish or French)"
)
FORM = Kind("other form", is_same_words, "the reference's words: only case, punctuation or spaces differ")
AROUND = Kind("more around it", has_more_around, "the reference stands in the answer, with more around it")
TOO_LONG = Kind("too long", is_too_long, f"over {LONG:g} times the reference's words, and {APART} more at least")
TOO_SHORT = Kind("too short", is_too_short, f"under {SHORT:g} of the reference's words, and {APART} fewer at least")
COPIED = Kind(
    "copied from the prompt",
    is_copied,
    f"{COPIED_FRAC:.0%} of its runs of {RUN} words stand in the prompt, and fewer of the reference's",
)
NUMBER = Kind("number from nowhere", has_new_number, "a number that neither the prompt nor the reference has")
NAME = Kind("name from nowhere", has_new_name, "a name that neither the prompt nor the reference has")
NO_NUMBER = Kind("no number", lambda s: last_number(s.answer) is None, "the answer holds no number")
ELSEWHERE = Kind("right number elsewhere", has_it_elsewhere, "the right number is in the answer, but not as its result")
SIGN = Kind("other sign", is_other_sign, "the right number with the other sign")
TENS = Kind("times ten", is_times_ten, "the right digits, off by a power of ten")
INSIDE = Kind("JSON with text around it", has_json_inside, "an object with a fence or a sentence around it")
NO_JSON = Kind("not JSON", is_no_json, "the answer is no JSON object")

TABLES: dict[str, tuple[Kind, ...]] = {
    "label": (EMPTY, CUT),
    "labels": (EMPTY, CUT, CIRCLES, REFUSES),
    "json": (NO_JSON, INSIDE, EMPTY, CUT, CIRCLES, REFUSES),
    "number": (NO_NUMBER, ELSEWHERE, SIGN, TENS, EMPTY, CUT, CIRCLES, REFUSES),
    "translate": (EMPTY, CUT, CIRCLES, REFUSES, SCRIPT, LANGUAGE, FORM, AROUND, TOO_LONG, TOO_SHORT, COPIED, NUMBER),
    "text": (EMPTY, CUT, CIRCLES, REFUSES, SCRIPT, LANGUAGE, FORM, AROUND, TOO_LONG, TOO_SHORT, COPIED, NUMBER, NAME),
}  # fmt: skip


def table_of(task: str, metric: str, references: Sequence[str], labels: Sequence[str]) -> str:
    """Which row of TABLES these cases are looked at by."""
    if task == "multilabel":
        return "labels"
    if labels:
        return "label"
    if references and all(parsed(r) is not None for r in references):
        return "json"
    return "number" if metric == "numeric" else "translate" if task == "translate" else "text"


def confusion(said: Said, labels: Sequence[str]) -> dict[str, str]:
    answer = said.answer.strip()
    if answer in labels:
        return {f"{said.reference} taken for {answer}": ""}  # the name says it
    return {"no label": "the answer is none of the labels"} if answer else {}


def sets(said: Said) -> dict[str, str]:
    """Labels that are missing, and those that were given wrongly."""
    got, wanted = label_set(said.answer), label_set(said.reference)
    found = {f"{name} missing": "" for name in sorted(wanted - got)}
    return found | {f"{name} given wrongly": "" for name in sorted(got - wanted)}


def fields(said: Said) -> dict[str, str]:
    """What is wrong with the fields of an answer that is a JSON object, those of nested ones by themselves."""
    got, wanted = parsed(said.answer), parsed(said.reference)
    if got is None or wanted is None:
        return {}
    given, right = leaves(got), leaves(wanted)
    found = {}
    for at, value in right.items():
        name = ".".join(at)
        if at not in given:
            found[f"{name} missing"] = f"the field {name} is not there"
        elif not same(given[at], value):
            found[f"{name} wrong"] = f"the field {name} has another value"
    extra = [at for at in given if at not in right]
    return found | ({INVENTED: "a field that the reference does not have"} if extra else {})


def kinds(said: Said, table: str, labels: Sequence[str]) -> dict[str, str]:
    """Name -> sentence of each kind of error that can be seen in this answer, which the metric found wrong."""
    found = {kind.name: kind.sentence for kind in TABLES[table] if kind.has(said)}
    if table == "label":
        found |= confusion(said, labels)
    if table == "labels":
        found |= sets(said)
    return found | fields(said) if table == "json" else found
