"""Held-out cases side by side: what kind of change each is, what differs, and how much text a report can carry."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evals.json_scores import parsed

HEAD_CHARS = 480  # of a text, shown before "show more"
MAX_DIFF_WORDS = 700  # of a text; past it, comparing costs more than it tells
MIN_COMMON_FRAC = 0.2  # of words; with fewer in common everything would be marked, which marks nothing
KINDS = {
    "broken": "Broken: the base was right, the tuned model is wrong",
    "worsened": "Lower score than before",
    "fixed": "Fixed: the base was wrong, the tuned model is right",
    "improved": "Higher score than before",
    "reworded": "Another text, the same score",
    "both-wrong": "Both wrong",
    "both-right": "Both right",
    "same": "The same text, or the same score without a change",
    "base-only": "Base model only: nothing was tuned yet",
}  # in the order of reading: what changed comes first
SHORT_KINDS = {
    "broken": "broken",
    "worsened": "lower score",
    "fixed": "fixed",
    "improved": "higher score",
    "reworded": "reworded",
    "both-wrong": "both wrong",
    "both-right": "both right",
    "same": "unchanged",
    "base-only": "base only",
}
WORSE, BETTER = ("broken", "worsened"), ("fixed", "improved")
CHANGED = (*WORSE, *BETTER, "reworded")

TAG_NAMES = SHORT_KINDS | {
    "base-right": "base right",
    "tuned-right": "tuned right",
    "tuned-wrong": "tuned not right",
    "tuned-cut": "tuned ran into the length limit",
    "all": "all",
}  # what a link to cases is called once it is followed
PAIR_KINDS = {  # of pairs, where no reply is right or wrong
    "broken": "Turned: the base prefers the chosen reply, the tuned model the rejected one",
    "fixed": "Turned: the base prefers the rejected reply, the tuned model the chosen one",
    "both-wrong": "Both prefer the rejected reply",
    "both-right": "Both prefer the chosen reply",
}
PAIR_SHORT_KINDS = {
    "broken": "now the rejected",
    "fixed": "now the chosen",
    "both-wrong": "both the rejected",
    "both-right": "both the chosen",
}
MARK_KINDS = {  # of replies that are marked good or bad: did they become likelier or less likely, as marked
    "worsened": "Against its mark: a good reply became less likely, or a bad one likelier",
    "improved": "As marked: a good reply became likelier, or a bad one less likely",
}
MARK_SHORT_KINDS = {"worsened": "against its mark", "improved": "as marked"}
PAIR_TAG_NAMES = PAIR_SHORT_KINDS | {
    "base-right": "base: the chosen",
    "tuned-right": "tuned: the chosen",
    "tuned-wrong": "tuned: not the chosen",
}

Piece = tuple[str, bool]  # a run of text, and whether it is marked as different


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out case as scores/cases.parquet has it; None: not measured."""

    example_id: str
    source: str  # file:line
    group: str | None
    prompt: str
    reference: str
    base_output: str | None
    tuned_output: str | None
    base_score: float | None
    tuned_score: float | None
    base_stopped: bool | None  # False: ran into the length limit
    tuned_stopped: bool | None
    # of the scores, "more" | "less" is better, or "relative": which of the two answers is preferred
    scale: str = "more"
    base_measured: tuple[float, ...] | None = None
    tuned_measured: tuple[float, ...] | None = None  # where the metric does not read the text
    turns: tuple[Case, ...] = ()  # of a dialogue that was played through, of which the texts above are transcripts
    rejected: str | None = None  # of a pair, whose chosen reply is the reference
    mark: str | None = None  # "good" | "bad": what somebody found of the reference, which is a given reply

    @property
    def each(self) -> tuple[Case, ...]:
        """What was answered at a time: itself, or the turns."""
        return self.turns or (self,)

    @property
    def wanted(self) -> str | tuple[str, ...]:
        """What the metric scores against; of a dialogue turn by turn, as the two below."""
        return tuple(turn.reference for turn in self.turns) or self.reference

    def said(self, who: str) -> str | tuple[str, ...] | None:
        """The answer of "base" or "tuned"."""
        own = self.base_output if who == "base" else self.tuned_output
        return tuple(str(turn.said(who) or "") for turn in self.turns) or own

    def measured(self, who: str) -> tuple[Any, ...] | None:
        """What was measured of it; None where something was not."""
        if not self.turns:
            return self.base_measured if who == "base" else self.tuned_measured
        each = tuple(turn.measured(who) for turn in self.turns)
        return None if None in each else each


def read_case(row: Mapping[str, Any]) -> Case:
    """A row of the Parquet file; columns that a baseline-only run does not write are None."""

    def text(name: str) -> str | None:
        value = row.get(name)
        return None if value is None else str(value)

    def score(name: str) -> float | None:
        value = row.get(name)
        return None if value is None or value != value else float(value)

    def numbers(name: str) -> tuple[float, ...] | None:
        return None if row.get(name) is None else tuple(map(float, row[name]))

    return Case(
        example_id=text("example_id") or "",
        source=text("source") or "",
        group=text("group"),
        prompt=text("prompt") or "",
        reference=text("reference") or "",
        base_output=text("base_output"),
        tuned_output=text("tuned_output"),
        base_score=score("base_score"),
        tuned_score=score("tuned_score"),
        base_stopped=row.get("base_stopped"),
        tuned_stopped=row.get("tuned_stopped"),
        scale=text("scale") or "more",
        base_measured=numbers("base_measured"),
        tuned_measured=numbers("tuned_measured"),
        turns=tuple(map(read_case, row.get("turns") or ())),
        rejected=text("rejected"),
        mark=text("mark"),
    )


def are_pairs(cases: Sequence[Case]) -> bool:
    return any(c.rejected is not None for c in cases)


def are_marked(cases: Sequence[Case]) -> bool:
    return any(c.mark is not None for c in cases)


def named(cases: Sequence[Case]) -> dict[str, Mapping[str, str]]:
    """What a page calls the kinds of these cases, in a heading, on a button and behind a link."""
    more: Sequence[Mapping[str, str]] = (
        (PAIR_KINDS, PAIR_SHORT_KINDS, PAIR_TAG_NAMES) if are_pairs(cases) else ({},) * 3
    )
    more = (MARK_KINDS, MARK_SHORT_KINDS, MARK_SHORT_KINDS) if are_marked(cases) else more
    names = ("kinds", "short_kinds", "tag_names")
    return {name: {**usual, **own} for name, usual, own in zip(names, (KINDS, SHORT_KINDS, TAG_NAMES), more)}


def went_wrong(cases: Sequence[Case], num: int) -> str:
    """What is said behind the number of cases that are "broken"."""
    if are_pairs(cases):
        return ", of which the base prefers the better reply and the tuned model the other"
    return f" that the base had right {'is' if num == 1 else 'are'} now wrong"


def is_right_or_wrong(cases: Sequence[Case]) -> bool:
    """Every score there is, is 0 or 1, so that a case is right or wrong and nothing between."""
    scores = [s for c in cases for s in (c.base_score, c.tuned_score) if s is not None]
    return bool(scores) and all(s in (0.0, 1.0) for s in scores) and all(c.scale == "more" for c in cases)


def kind(case: Case, *, binary: bool) -> str:
    """One of KINDS. Scores decide; where they do not differ, or were not kept, the text does."""
    if case.tuned_output is None:
        return "base-only"
    base, tuned = case.base_score, case.tuned_score
    if base is None or tuned is None:
        return "reworded" if case.base_output != case.tuned_output else "same"
    if binary:
        return {(1, 0): "broken", (0, 1): "fixed", (1, 1): "both-right", (0, 0): "both-wrong"}[int(base), int(tuned)]
    if base != tuned:
        return "improved" if (tuned > base) != (case.scale == "less") else "worsened"
    return "reworded" if case.base_output != case.tuned_output else "same"


def tags(case: Case, of_kind: str, *, binary: bool) -> tuple[str, ...]:
    """What a filter or a link can ask for: the kind, who was right, who ran into the length limit."""
    found = [of_kind]
    if of_kind in CHANGED:
        found.append("changed")
    if binary and case.base_score is not None:
        found.append("base-right" if case.base_score else "base-wrong")
    if binary and case.tuned_score is not None:
        found.append("tuned-right" if case.tuned_score else "tuned-wrong")
    is_part = not binary and case.tuned_score is not None and case.tuned_score < 1 and case.scale == "more"
    if is_part and case.rejected is None and json_fields(case.reference):
        found.append("tuned-wrong")  # a field of it; of a free text no score below 1 means wrong
    if of_kind in WORSE:
        found.append("worse")
    if of_kind in BETTER:
        found.append("better")
    if False in (case.base_stopped, case.tuned_stopped):
        found.append("cut")
    if case.base_stopped is False:
        found.append("base-cut")
    if case.tuned_stopped is False:
        found.append("tuned-cut")
    return tuple(found)


def in_reading_order(cases: Sequence[Case], *, binary: bool) -> list[tuple[str, Case]]:
    """(kind, case): by kind as in KINDS, the largest change of score first, then by id, whatever the file's order."""
    order = list(KINDS)

    def key(pair: tuple[str, Case]) -> tuple[int, float, str]:
        of_kind, case = pair
        change = abs((case.tuned_score or 0.0) - (case.base_score or 0.0))
        return order.index(of_kind), -change, case.example_id

    return sorted(((kind(c, binary=binary), c) for c in cases), key=key)


def counts(cases: Sequence[Case]) -> Counter[str]:
    """How many cases carry each tag; "all" is every case."""
    binary = is_right_or_wrong(cases)
    found: Counter[str] = Counter(all=len(cases))
    for case in cases:
        found.update(tags(case, kind(case, binary=binary), binary=binary))
    return found


def shared_start(prompts: Sequence[str]) -> str:
    """The beginning that all prompts have in common, cut at a line or word end; "" when it is too short to matter."""
    if len(prompts) < 2:
        return ""
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    common = first[: next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]
    end = max(common.rfind("\n"), common.rfind(" ")) + 1
    return common[:end] if end >= 60 else ""


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """The two texts in pieces, marked where one has words that the other lacks. Joined, the pieces are the texts."""
    words_before, words_after = (re.findall(r"\s*(?:\w+|[^\w\s])|\s+$", text) for text in (before, after))
    plain = [(before, False)], [(after, False)]
    if before == after or max(len(words_before), len(words_after)) > MAX_DIFF_WORDS:
        return plain
    keys_before, keys_after = ([w.strip() for w in words] for words in (words_before, words_after))
    matcher = difflib.SequenceMatcher(None, keys_before, keys_after, autojunk=False)
    if matcher.quick_ratio() < MIN_COMMON_FRAC or matcher.ratio() < MIN_COMMON_FRAC:
        return plain
    left: list[Piece] = []
    right: list[Piece] = []
    for op, a, b, c, d in matcher.get_opcodes():
        mark = op != "equal"
        left += [("".join(words_before[a:b]), mark)] if b > a else []
        right += [("".join(words_after[c:d]), mark)] if d > c else []
    return left, right


def cut(pieces: Sequence[Piece], num_chars: int) -> tuple[list[Piece], list[Piece]]:
    """The pieces split after about `num_chars` characters, at a word end where one is near."""
    head: list[Piece] = []
    left = num_chars
    for index, (text, mark) in enumerate(pieces):
        if len(text) <= left:
            head.append((text, mark))
            left -= len(text)
            continue
        space = text.rfind(" ", max(0, left - 40), left)
        at = space + 1 if space >= 0 else left
        head += [(text[:at], mark)] if at else []
        return head, [(text[at:], mark), *pieces[index + 1 :]]
    return head, []


def json_fields(text: str | None) -> dict[str, Any] | None:
    """The fields of a text that is one JSON object, read as the metrics read it; None where it is not."""
    return None if text is None else parsed(text)


def field_text(value: Any) -> str:
    """A field's value as it is read: strings bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
