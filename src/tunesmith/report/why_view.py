"""understanding.json as the report prints it: kinds of error, topics of the cases, and which layers moved; and what was
found out about single cases (explained/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from tunesmith.report import charts, words

NUM_SHOWN, NUM_PULLS, MOST_CHARS = 3, 3, 160  # cases of a kind; examples that pulled the same way; of a text


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    num: int
    score: str
    gap: str
    interval: str
    tone: str  # "bad", "good" or "": beyond chance, for all topics together


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error; its tag is on the cases that have it in the tuned answer, with "b" behind it in the base's."""

    name: str
    sentence: str
    tag: str
    num_base: int
    num_tuned: int
    share: str
    num_cured: int
    num_caused: int
    change: str  # with its interval
    tone: str  # "bad": tuning caused it, beyond chance; "good": cured
    shown: tuple[str, ...]  # ids of cases


@dataclass(frozen=True, slots=True)
class Piece:
    """Words of a prompt; `strength` 2: they moved the answer most, 1: some, 0: little or not."""

    text: str
    strength: int
    drop: str  # nats


@dataclass(frozen=True, slots=True)
class Moving:
    """What moved one answer."""

    pieces: tuple[Piece, ...]
    said: str  # the check against random words
    pulls: tuple[tuple[str, str, str, str], ...]  # (cosine, source, prompt, reply)
    compared: str


@dataclass(frozen=True, slots=True)
class Why:
    said: str
    errors: str  # in a sentence; "" where they were not looked for
    kinds: tuple[Kind, ...]
    topics: tuple[Topic, ...]
    layers: tuple[tuple[str, str, str, Markup], ...]  # (layer, moved by, its matrix that moved most, bar)


def why(found: Mapping[str, Any]) -> Why:
    topics = tuple(topic(row) for row in found.get("topics") or ())
    weak = [t.name for t in topics if t.tone == "bad"]
    said = "The cases are too few, or too like each other, to be put into topics."
    if weak:
        said = f"The tuned model does worse than elsewhere, beyond chance, where the prompt is about {'; '.join(weak)}."
    elif topics:
        said = "In no topic does the tuned model do worse than elsewhere beyond chance."
    rows = [row for row in found.get("layers") or () if isinstance(row.get("relative"), float)]
    most = max((row["relative"] for row in rows), default=0.0)
    errors = found.get("errors") or {}
    kinds = tuple(kind(row, k) for k, row in enumerate(errors.get("kinds") or ()))
    return Why(said, failed(errors), kinds, topics, tuple(layer(row, most) for row in rows))


def failed(errors: Mapping[str, Any]) -> str:
    if not errors:
        return ""
    num, cases = errors["num_tuned"], errors["num_cases"]
    scored = f"its {words.metric(errors['metric'])} is under {words.number(errors['under'])}"
    said = (
        f"{num} of {words.things(cases, 'case')} fail with the tuned model, {errors['num_base']} with the base. A case "
        f"fails where {'its answer is not wholly right' if errors['is_whole'] else scored}, and may have several kinds "
        "of error."
    )
    if not errors["kinds"]:
        return said
    caused, cured = ([r["name"] for r in errors["kinds"] if side(r) == tone] for tone in ("bad", "good"))
    said += f" Tuning cured, beyond chance: {'; '.join(cured)}." if cured else ""
    said += f" Tuning caused, beyond chance: {'; '.join(caused)}." if caused else ""
    unnamed = errors["num_unnamed"]
    if unnamed:
        said += f" {unnamed} {'is' if unnamed == 1 else 'are'} of no kind that a program sees."
    return said


def side(row: Mapping[str, Any]) -> str:
    low, high = row["change_interval"]
    return "bad" if low > 0 else "good" if high < 0 else ""


def kind(row: Mapping[str, Any], number: int) -> Kind:
    ids = row["example_ids"]
    share = f"{row['share']:.0%} ({row['interval'][0]:.0%} to {row['interval'][1]:.0%})" if ids else "–"
    change = f"{words.signed(row['change'])} ({words.interval(row['change_interval'], with_sign=True)})"
    return Kind(
        str(row["name"]), str(row["sentence"]), f"k{number}", len(row["base_ids"]), len(ids), share, row["num_cured"],
        row["num_caused"], change, side(row), tuple(ids[:NUM_SHOWN]),
    )  # fmt: skip


def tags(found: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Example id -> the tags of its kinds of error."""
    rows: dict[str, list[str]] = {}
    for k, row in enumerate(((found or {}).get("errors") or {}).get("kinds") or ()):
        for ids, tag in ((row["example_ids"], f"k{k}"), (row["base_ids"], f"k{k}b")):
            for name in ids:
                rows.setdefault(name, []).append(tag)
    return rows


def moving(found: Mapping[str, Any]) -> Moving:
    """A file of explained/, cut to what a page can carry."""
    drops = [float(s["drop"]) for s in found["spans"]]
    most = max(drops, default=0.0)
    pieces = []
    for span, drop in zip(found["spans"], drops):
        part = drop / most if most > 0 else 0.0
        pieces.append(Piece(str(span["text"]), 2 if part > 0.5 else 1 if part > 0.2 else 0, f"{drop:.2f}"))
    check = found["check"]
    said = "The prompt is too short to hold its words against random ones."
    if check is not None:
        said = (
            f"Without the {words.things(check['num_spans'], 'strongest piece')} the answer loses "
            f"{check['top_drop']:.2f} nats, without as many random ones {check['random_drop']:.2f}; "
            f"{check['random_as_strong']} of {check['num_random']} random choices did as much."
        )
        if 2 * check["random_as_strong"] >= check["num_random"]:
            said += " So the marked words explain nothing."
    pulls = found["pulls"]
    shown = [*[p for p in pulls if p["cosine"] > 0][:NUM_PULLS], *(p for p in pulls[-1:] if p["cosine"] < 0)]
    rows = tuple(pull(p) for p in shown)
    return Moving(tuple(pieces), said, rows, words.things(found["num_compared"], "training example"))


def pull(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    cosine = f"{row['cosine']:+.2f}".replace("-", "−")
    return cosine, PurePath(str(row["source"])).name, brief(row["prompt"]), brief(row["reply"])


def brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]} …"


def topic(row: Mapping[str, Any]) -> Topic:
    low, high = row["interval"]
    tone = "bad" if high < 0 else "good" if low > 0 else ""
    span = words.interval(row["interval"], with_sign=True)
    num = len(row["example_ids"])
    return Topic(str(row["name"]), num, words.number(row["score"]), words.signed(row["gap"]), span, tone)


def layer(row: Mapping[str, Any], most: float) -> tuple[str, str, str, Markup]:
    name = f"layer {row['layer']}" if row["layer"] else "outside the layers"
    said = f"{100 * row['relative']:.2g}%"
    bar = charts.budget_bar(row["relative"], None, most or 1.0, f"{name}: {said}")
    return name, said, str(row["largest"]).removeprefix("model."), bar


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for Markdown: kinds of error, and topics."""
    view = why(found)
    kinds = [
        f"- {k.name}: {k.num_tuned} cases, {k.share} of those that fail; base {k.num_base}, cured {k.num_cured}, "
        f"caused {k.num_caused}, change {k.change}; such as {', '.join(k.shown) or 'none any more'}"
        for k in view.kinds
    ]
    rows = [
        f"- about {t.name}: {t.score} on {t.num} cases, {t.gap} against the others ({t.interval})" for t in view.topics
    ]
    found_errors = [view.errors, "", *kinds, *([""] if kinds else [])] if view.errors else []
    return [*found_errors, view.said, "", *rows, *([""] if rows else [])]
