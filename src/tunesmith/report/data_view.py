"""audit.json as the page prints it: counts that add up, lengths, labels, and the rows behind each count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.report import words

MOST_ROWS = 200  # of a listing; the rest stands in audit.json
CELL_CHARS = 400
LEARNED_CHARS = 6000  # of the understood example
LISTED = {
    ("rejected",): "Rows that could not be read",
    ("dropped",): "Examples dropped",
    ("cut",): "Examples cut to length",
    ("moved",): "Examples taken out, because another split has the same prompt or group, or near copies",
    ("duplicates", "exact"): "Rows identical to an earlier one",
    ("duplicates", "normalised"): "Rows like an earlier one but for case, white space or digits",
    ("contradictions",): "Prompts that stand with more than one label",
    ("contaminated",): "Training rows that contain items of public tests",
    ("twins",): "Test prompts that stand in training once digits are masked",
}
SHOWN_ELSEWHERE = {
    "rows",
    "accepted",
    "splits",
    "tokens",
    "classes",
    "warnings",
    "understood",
    "columns",
    "files",
    "near",
}
QUANTILES = {
    "0": "shortest",
    "0.25": "a quarter up to",
    "0.5": "half up to",
    "0.75": "three quarters up to",
    "0.95": "95 of 100 up to",
    "1": "longest",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows that something happened to. `num` counts them all; `rows` may be fewer."""

    title: str
    num: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Data:
    counted: list[tuple[str, str]]
    warnings: list[str]
    listings: list[Listing]
    lengths: list[tuple[str, list[str]]]  # (of what, tokens at each quantile)
    length_names: list[str]
    classes: list[tuple[str, list[str]]]  # (label, rows in each split)
    class_names: list[str]
    rest: list[tuple[str, str]]  # what this page has no place of its own for, as it stands in audit.json
    columns: str
    example_id: str
    pieces: list[tuple[str, bool]]  # of the understood example: text, is learned
    num_left_out: int  # characters of it


def flat(value: Any) -> str:
    """A value of a JSON file on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(flat(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def listing(title: str, found: Any) -> Listing:
    """A count with its rows ({"count", "rows" | "examples"}), or the rows alone: mappings, lists or texts."""
    rows = found
    if isinstance(found, Mapping):
        rows = found.get("rows") if isinstance(found.get("rows"), list) else found.get("examples") or []
    num = found.get("count", found.get("prompts", len(rows))) if isinstance(found, Mapping) else len(rows)
    rows = [placed(r) for r in rows]
    keys = [tuple(r) for r in rows if isinstance(r, Mapping)]
    if rows and len(keys) == len(rows) and len(set(keys)) == 1:
        cells = tuple(tuple(flat(v)[:CELL_CHARS] for v in r.values()) for r in rows[:MOST_ROWS])
        return Listing(title, num, tuple(str(k).replace("_", " ") for k in keys[0]), cells)
    cells = tuple(
        (" · ".join(flat(v) for v in r) if isinstance(r, (list, tuple)) else flat(r),) for r in rows[:MOST_ROWS]
    )
    return Listing(title, num, ("found",), cells)


def placed(row: Any) -> Any:
    """A row with "file" and "line" as one file:line, as editors open it; any other row as it is."""
    if not isinstance(row, Mapping) or "file" not in row or "line" not in row:
        return row
    return {"row": f"{row['file']}:{row['line']}", **{k: v for k, v in row.items() if k not in ("file", "line")}}


def inside(found: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        found = found.get(key) or {} if isinstance(found, Mapping) else {}
    return found


def counted(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows read, what became of them, and how many tokens are learned."""
    tokens, splits = found.get("tokens") or {}, found.get("splits") or {}
    rejected = inside(found, ["rejected"])
    said = [("rows read", found.get("rows")), ("accepted", found.get("accepted"))]
    if "rejected" in found:
        said.append(("rejected", listing("", rejected).num))
    said += [(f"in {name}", num) for name, num in splits.items()]
    said += [("tokens to train on", tokens.get("total")), ("tokens learned", tokens.get("learned"))]
    made = [(name, words.count(num)) for name, num in said if num is not None]
    frac = tokens.get("learned_frac", found.get("learned_frac"))
    return [*made, *([("learned share", f"{100 * frac:.1f}%")] if isinstance(frac, float) else [])]


def table(rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Rows of counts, and the names of their columns."""
    names = list(dict.fromkeys(k for row in rows.values() for k in row))
    return [(str(title), [words.count(row.get(n)) for n in names]) for title, row in rows.items() if row], names


def pieces(understood: Mapping[str, Any]) -> tuple[list[tuple[str, bool]], int]:
    """The understood example's text with what is learned marked, and how many characters were left out."""
    shown: list[tuple[str, bool]] = []
    left = LEARNED_CHARS
    for text, is_learned in (understood.get("example") or {}).get("pieces") or []:
        shown += [(text[:left], bool(is_learned))] if left > 0 else []
        left -= len(text)
    return shown, max(0, -left)


def data(found: Mapping[str, Any]) -> Data:
    tokens, understood = found.get("tokens") or {}, found.get("understood") or {}
    both = {"whole example": tokens.get("length_quantiles") or {}, "learned reply": tokens.get("reply_quantiles") or {}}
    lengths, length_names = table(both)
    classes, class_names = table(found.get("classes") or {})
    shown, num_left_out = pieces(understood)
    known = SHOWN_ELSEWHERE | {keys[0] for keys in LISTED}
    return Data(
        counted=counted(found),
        warnings=[str(w) for w in found.get("warnings") or ()],
        listings=[listing(title, inside(found, keys)) for keys, title in LISTED.items() if inside(found, keys)],
        lengths=lengths,
        length_names=[QUANTILES.get(n, n) for n in length_names],
        classes=classes,
        class_names=class_names,
        rest=[(k.replace("_", " "), flat(v)) for k, v in found.items() if k not in known and v not in (None, [], {})],
        columns=flat(understood.get("columns") or found.get("columns") or {}),
        example_id=str((understood.get("example") or {}).get("id") or ""),
        pieces=shown,
        num_left_out=num_left_out,
    )
