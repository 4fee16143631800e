"""The ways in which `tunesmith synthesise` has a model write rows: what is asked, step by step, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tunesmith.build import prompt_text
from tunesmith.evals import numeric
from tunesmith.evals.tasks import answer_text
from tunesmith.evals.text import folded
from tunesmith.novel import ROUGE_L, words
from tunesmith.types import Example, Label, Message

Turns = tuple[Message, ...]
NUM_SHOWN = 3  # seeds in a question for a new one
NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
MARK = re.compile(r"####\s*(.+)")
# The first pair: a model that is asked for one may go on with others
FORM = re.compile(
    r"question:\s*(.+?)\s*\n+\s*answer:\s*(.+?)\s*(?:\n\s*\n|\n\W*(?:question|answer)\b|\Z)", re.IGNORECASE | re.DOTALL
)
LEAST_FOUND = 0.5  # of the longer words of an answer, that stand in its passage
LONG_WORD = 4  # letters


@dataclass(frozen=True, slots=True)
class Said:
    """What a user says of how it is done."""

    language: str = "English"  # of the rows
    through: str = "French"  # the one they are taken through


@dataclass(slots=True)
class Work:
    """One row on its way. `shown`: the first is the one that it is made of."""

    shown: tuple[Example, ...]
    how: Said
    said: list[str] = field(default_factory=list)
    failed: str = ""  # why it goes no further

    @property
    def prompt(self) -> str:
        return prompt_text(self.shown[0])

    @property
    def answer(self) -> str:
        return answer_text(self.shown[0])

    @property
    def is_label(self) -> bool:
        return isinstance(self.shown[0].target, Label)


Made = tuple[str, str, bool]  # prompt, answer, whether the answer is a label
Step = Callable[[Work], Turns]


@dataclass(frozen=True, slots=True)
class Kind:
    steps: tuple[Step, ...]
    finish: Callable[[Work], Made | str]  # or why it is left out
    num_shown: int = 1
    above: float | None = ROUGE_L  # likeness to what is there, from which on a prompt is no new one
    sizes: tuple[float, float] | None = None  # fewest and most words of a prompt; None: by those of the seeds


def one(text: str) -> Turns:
    return (Message("user", text),)


def bare(text: str) -> str:
    """Without a number before it or quotes around it; of several paragraphs the first."""
    first = NUMBERED.sub("", text.strip().split("\n\n")[0].strip())
    return first[1:-1].strip() if len(first) > 1 and first[0] in "\"“'" and first[-1] in "\"”'" else first


def another(work: Work) -> Turns:
    listed = "\n\n".join(f"{n}. {prompt_text(e)}" for n, e in enumerate(work.shown, 1))
    what = f" All of them are of the kind {work.answer!r}." if work.is_label else ""
    return one(
        f"Here are examples:\n\n{listed}\n\n{what}Write one more of the same kind, about something else. Write only it."
    )


def answered(work: Work) -> Turns:
    """The seeds as turns before the new prompt; a label is known already, and nothing is asked."""
    if work.is_label:
        return ()
    before = [m for e in work.shown for m in (Message("user", prompt_text(e)), Message("assistant", answer_text(e)))]
    return (*before, Message("user", bare(work.said[0])))


def expanded(work: Work) -> Made | str:
    if work.is_label:
        return bare(work.said[0]), work.answer, True
    return bare(work.said[0]), work.said[1].strip(), False


def reworded(work: Work) -> Turns:
    return one(f"Say this in other words, with the same meaning. Write only that.\n\n{work.prompt}")


def away(work: Work) -> Turns:
    return one(f"Translate this into {work.how.through}. Write only the translation.\n\n{work.prompt}")


def back(work: Work) -> Turns:
    return one(f"Translate this into {work.how.language}. Write only the translation.\n\n{work.said[0].strip()}")


def kept_answer(work: Work) -> Made | str:
    return bare(work.said[-1]), work.answer, work.is_label


def reasoned(work: Work) -> Turns:
    return one(
        f"{work.prompt}\n\nThink step by step, and write the answer on a last line that begins with ####, as in #### "
        "answer"
    )


def reached(work: Work) -> Made | str:
    """Kept only where it comes to the answer that is known (STaR: Zelikman et al. 2022, arXiv:2203.14465)."""
    said = work.said[0].strip()
    if numeric.last_number(work.answer) is not None:
        is_right = bool(numeric.right(said, work.answer))
    else:
        marked = MARK.findall(said)
        is_right = bool(marked) and folded(marked[-1]).casefold() == folded(work.answer).casefold()
    return (work.prompt, said, False) if is_right else "does not come to the known answer"


ASKED_OF = (
    "{}\n\nWrite one question that this text answers, and its answer in a sentence, in this form:\n"
    "Question: …\nAnswer: …"
)
SHOWN_ONE = "The museum opens at ten. On Mondays it is closed, and children pay nothing on any day."


def asked_of(work: Work) -> Turns:
    """One that is answered stands before it: small models do not follow a form that is only told."""
    said = "Question: On which day is the museum closed?\nAnswer: The museum is closed on Mondays."
    before = (Message("user", ASKED_OF.format(SHOWN_ONE)), Message("assistant", said))
    return (*before, Message("user", ASKED_OF.format(work.prompt)))


def grounded(work: Work) -> Made | str:
    found = FORM.search(work.said[0])
    if not found:
        return "is no question with an answer"
    question, answer = (part.strip() for part in found.groups())
    long = [w.strip(".,;:!?()\"'") for w in words(answer) if len(w) >= LONG_WORD]
    there = set(re.findall(r"\w+", " ".join(words(work.prompt))))
    if long and sum(w in there for w in long) < LEAST_FOUND * len(long):
        return "its answer is not in the text"
    if set(NUMBER.findall(f"{question} {answer}")) - set(NUMBER.findall(work.prompt)):
        return "it has a number that is not in the text"
    return question, answer, False


KINDS: dict[str, Kind] = {
    "expand": Kind((another, answered), expanded, NUM_SHOWN),
    "paraphrase": Kind((reworded,), kept_answer, above=0.9),
    "back-translation": Kind((away, back), kept_answer, above=0.9),
    "rationale": Kind((reasoned,), reached, above=None),
    "questions": Kind((asked_of,), grounded, sizes=(3, 60)),
}
