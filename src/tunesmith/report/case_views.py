"""Cases as the page prints them, cut to fit: long texts shortened, unchanged cases left out first, and both said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import escape

from tunesmith.evals.json_scores import same
from tunesmith.report import cases
from tunesmith.report.breakdown import Part, breakdown
from tunesmith.report.cases import Case, Piece
from tunesmith.report.why_view import Moving, moving
from tunesmith.report.words import number, signed

CAPS = (20_000, 8_000, 4_000, 2_000, 1_400, 1_000, 700, 480, 340, 240)  # characters of one text that a page may carry
MOST_FIELDS = 60  # of one answer
MOST_CHOICES = 200  # of files or groups in a list to choose from; with more, the search finds them
CASE_BYTES = 1_600  # of markup around the texts of a case, measured on JSON cases with six fields


@dataclass(frozen=True, slots=True)
class Block:
    """A text in pieces: seen at once, behind "show more", and how many characters stay in the Parquet file."""

    head: list[Piece]
    tail: list[Piece]
    num_tail: int
    num_left_out: int


@dataclass(frozen=True, slots=True)
class Field:
    key: str
    value: str
    state: str  # "" | "wrong" | "missing" | "extra", against the reference


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    css: str  # reference | base | tuned
    block: Block | None
    fields: tuple[Field, ...]
    score: str  # "" = none
    right: bool | None  # None: neither right nor wrong
    called: str  # what it is then
    cut: bool  # ran into the length limit
    note: str


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn of a dialogue: what the user said, and what was wanted and answered."""

    prompt: Block
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class CaseView:
    kind: str
    short_kind: str
    tags: str
    example_id: str
    source: str
    group: str
    file_number: int  # of CasePage.files; −1 where the row names no file
    group_number: int  # of CasePage.groups; −1 where it has none or there are too many to choose from
    prompt: Block  # empty where there are turns
    columns: tuple[Column, ...]  # the same
    turns: tuple[TurnView, ...]
    moving: Moving | None = None  # what moved the answer, where somebody looked


@dataclass(frozen=True, slots=True)
class CasePage:
    views: list[CaseView]
    num_all: int
    shared: Block | None  # the beginning that all prompts have in common, shown once
    cap: int
    num_shortened: int  # texts that the cap shortened
    parts_title: str = ""  # "Label" | "Field"; "" = the cases have no such parts
    parts: tuple[Part, ...] = ()
    files: tuple[tuple[str, int], ...] = ()  # what a reader can choose from, and how many cases each has
    groups: tuple[tuple[str, int], ...] = ()


def block(pieces: Sequence[Piece], cap: int) -> Block:
    kept, left = cases.cut(pieces, cap)
    head, tail = cases.cut(kept, cases.HEAD_CHARS)
    if sum(len(t) for t, _ in tail) < 60:  # a "show more" for a few words costs more than the words
        head, tail = [*head, *tail], []
    return Block(head, tail, sum(len(t) for t, _ in tail), sum(len(t) for t, _ in left))


def against(fields: Mapping[str, Any], wanted: Mapping[str, Any], cap: int) -> tuple[Field, ...]:
    """Each field beside the reference's: what differs, what is missing, what was not asked for."""
    made = [
        Field(
            k, shorten(cases.field_text(v), cap), "extra" if k not in wanted else "" if same(v, wanted[k]) else "wrong"
        )
        for k, v in fields.items()
    ]
    return tuple([*made, *(Field(k, "", "missing") for k in wanted if k not in fields)][:MOST_FIELDS])


def shorten(text: str, cap: int) -> str:
    return text if len(text) <= cap else f"{text[:cap]} … {len(text) - cap} more characters"


def marked(base: str, tuned: str, cap: int) -> tuple[list[Piece], list[Piece]]:
    """Base and tuned in pieces; what a page will not show is not compared."""
    left, right = cases.differences(base[:cap], tuned[:cap])
    return [*left, (base[cap:], False)], [*right, (tuned[cap:], False)]


def columns(case: Case, cap: int, *, binary: bool) -> tuple[Column, ...]:
    """Reference, base and tuned; outputs that are the same text share a column."""
    if case.mark is not None:
        return moved(case, cap)
    if case.rejected is not None:
        return compared(case, cap, binary=binary)
    wanted = cases.json_fields(case.reference)
    base, tuned = case.base_output, case.tuned_output
    reference = None if wanted else block([(case.reference, False)], cap)
    made = [
        Column("Reference", "reference", reference, against(wanted or {}, wanted or {}, cap), "", None, "", False, "")
    ]
    left, right = [(base or "", False)], [(tuned or "", False)]
    if base is not None and tuned is not None and not wanted:
        left, right = marked(base, tuned, cap)
    of_base = base, left, case.base_score, case.base_stopped
    of_tuned = tuned, right, case.tuned_score, case.tuned_stopped
    sides = [("Base", "base", *of_base), ("Tuned", "tuned", *of_tuned)]
    if of_base[0] is not None and (of_base[0], *of_base[2:]) == (of_tuned[0], *of_tuned[2:]):
        sides = [("Base and tuned, the same text", "tuned", *of_tuned)]
    for title, css, output, pieces, score, stopped in sides:
        if output is None:
            continue
        fields = cases.json_fields(output) if wanted else None
        made.append(
            Column(
                title=title,
                css=css,
                block=None if fields else block(pieces, cap),
                fields=against(fields, wanted, cap) if fields and wanted else (),
                score="" if score is None or binary else number(score),
                right=bool(score) if binary and score is not None else None,
                called="right" if score else "wrong",
                cut=stopped is False,
                note=note(case, output, wants_json=bool(wanted), is_json=fields is not None),
            )
        )
    return tuple(made)


def compared(case: Case, cap: int, *, binary: bool) -> tuple[Column, ...]:
    """A pair or a ranked list of replies, and which of them each model prefers, by how much."""
    replies = (("Chosen reply", case.reference), ("Rejected reply", case.rejected or ""))
    made = [Column(title, "reference", block([(t, False)], cap), (), "", None, "", False, "") for title, t in replies]
    of_base = "Base", "base", case.base_output, case.base_score, case.base_measured
    of_tuned = "Tuned", "tuned", case.tuned_output, case.tuned_score, case.tuned_measured
    for who, css, output, score, measured in (of_base, of_tuned):
        if output is None or score is None:
            continue
        said = block([(margin(measured or ()), False)], cap)
        right, score_words = (bool(score), "") if binary else (None, number(score))
        title = f"{who} prefers" if binary else f"{who} prefers: {output}"
        made.append(Column(title, css, said, (), score_words, right, output, False, ""))
    return tuple(made)


def margin(measured: Sequence[float]) -> str:
    """By how much the better reply of a pair is preferred, or on average those of the pairs of a list."""
    if len(measured) == 2:
        chosen, rejected = measured
        return f"margin {signed(chosen - rejected)} nats: chosen {number(chosen)}, rejected {number(rejected)}"
    each = [chosen - rejected for chosen, rejected in zip(measured[::2], measured[1::2])]
    return f"margin {signed(sum(each) / len(each))} nats, mean of {len(each)} pairs" if each else ""


def moved(case: Case, cap: int) -> tuple[Column, ...]:
    """A reply that is marked, and what became of it."""
    reply = block([(case.reference, False)], cap)
    found = [Column(f"Reply, marked {case.mark}", "reference", reply, (), "", None, "", False, "")]
    if case.tuned_output is not None and case.tuned_measured:
        right = None if case.tuned_score == 0.5 else bool(case.tuned_score)
        by = block([(f"by {signed(case.tuned_measured[0])} nats", False)], cap)
        found.append(Column("Tuned finds it", "tuned", by, (), "", right, case.tuned_output, False, ""))
    return tuple(found)


def turns(case: Case, cap: int) -> tuple[TurnView, ...]:
    """Of a dialogue that was played through."""
    return tuple(TurnView(block([(t.prompt, False)], cap), columns(t, cap, binary=False)) for t in case.turns)


def note(case: Case, output: str, *, wants_json: bool, is_json: bool) -> str:
    if not case.prompt and not output and case.tuned_measured is not None:
        return "scored as it stands, nothing is written"
    if not output.strip():
        return "empty"
    return "not a JSON object" if wants_json and not is_json else ""


def fit(found: Sequence[Case], num_bytes: int) -> tuple[int, int]:
    """(characters that a text may have, cases that may be shown) so that their markup stays near `num_bytes`."""
    parts = [part for c in found for part in c.each]
    texts = [[t for t in (c.prompt, c.reference, c.rejected, c.base_output, c.tuned_output) if t] for c in parts]
    for cap in CAPS:
        if (
            sum(CASE_BYTES + sum(len(escape(t[:cap]).encode("utf-8", "replace")) for t in row) for row in texts)
            <= num_bytes
        ):
            return cap, len(found)
    most = num_bytes // (CASE_BYTES + 4 * 2 * CAPS[-1])  # cases of one turn
    return CAPS[-1], min(len(found), most * len(found) // len(parts))


def file_of(source: str) -> str:
    """The file of a file:line."""
    name, colon, line = source.rpartition(":")
    return name if colon and line.isdigit() else source


def choices(names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Names in order with their counts; nothing where there is no choice or too much of it."""
    tally = Counter(name for name in names if name)
    return tuple(sorted(tally.items())) if 2 <= len(tally) <= MOST_CHOICES else ()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of cases beside their answers, by their ids."""

    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    explained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def page(found: Sequence[Case], num_bytes: int, known: Known | None = None) -> CasePage:
    """The cases in reading order, as many and as long as fit in about `num_bytes`."""
    known = known or Known()
    binary = cases.is_right_or_wrong(found)
    shared = "" if any(c.turns for c in found) else cases.shared_start([c.prompt for c in found])
    cap, most = fit(found, num_bytes)
    by_part, short_kinds = breakdown(found), cases.named(found)["short_kinds"]
    files, groups = choices([file_of(c.source) for c in found]), choices([c.group or "" for c in found])
    file_numbers, group_numbers = ({name: i for i, (name, _) in enumerate(names)} for names in (files, groups))
    views = []
    shortened = 0
    for of_kind, case in cases.in_reading_order(found, binary=binary)[:most]:
        prompt = "" if case.turns else case.prompt[len(shared) :]
        for part in case.turns or (replace(case, prompt=prompt),):
            texts = (part.prompt, part.reference, part.base_output or "", part.tuned_output or "")
            shortened += sum(len(t) > cap for t in texts)
        facts = known.explained.get(case.example_id)
        more = [*known.tags.get(case.example_id, ()), *(["explained"] if facts else [])]
        views.append(
            CaseView(
                kind=of_kind,
                short_kind=short_kinds[of_kind],
                tags=" ".join(
                    (*cases.tags(case, of_kind, binary=binary), *by_part.tags.get(case.example_id, ()), *more)
                ),
                example_id=case.example_id,
                source=case.source,
                group=case.group or "",
                file_number=file_numbers.get(file_of(case.source), -1),
                group_number=group_numbers.get(case.group or "", -1),
                prompt=block([(prompt, False)], cap),
                columns=() if case.turns else columns(case, cap, binary=binary),
                turns=turns(case, cap),
                moving=None if facts is None else moving(facts),
            )
        )
    prefix = block([(shared, False)], CAPS[0]) if shared else None
    return CasePage(views, len(found), prefix, cap, shortened, by_part.title, by_part.parts, files, groups)
