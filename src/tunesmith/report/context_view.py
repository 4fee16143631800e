"""scores/context.json as the page and report.md print it: loss by position, and what was found in long texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.report import words
from tunesmith.report.robustness_view import RobustnessView, Sheet

Facts = Mapping[str, Any]
WHO = {"base": "Base", "stretched": "Base, new angles", "tuned": "Tuned"}
METHODS = {
    "linear": "position interpolation", "ntk": "NTK-aware scaling", "yarn": "YaRN", "llama3": "Llama 3's scaling",
}  # fmt: skip


def context(found: Facts) -> RobustnessView:
    sheets = [sheet for sheet in (by_position(found), passkeys(found)) if sheet.rows]
    return RobustnessView(tuple(sentences(found)), tuple(sheets))


def sentences(found: Facts) -> list[str]:
    loss, asked = found["loss"], found["passkey"]["asked"]
    said = [
        f"From {words.count(found['own_tokens'])} to {words.count(found['tokens'])} tokens by "
        f"{METHODS[found['method']]}. The base is as it was; the base with the new angles has made no update."
    ]
    if loss["longest"] < found["tokens"]:
        said.append(
            f"The held-out texts make up {words.count(loss['longest'])} tokens at most: beyond that nothing was "
            "measured by position."
        )
    if left := found["passkey"]["num_planned"] - len(asked):
        said.append(f"{words.things(left, 'long text')} had no time (evals.guard_budget_s).")
    return said


def by_position(found: Facts) -> Sheet:
    loss, own = found["loss"], found["own_tokens"]
    rows = []
    for k, (low, high) in enumerate(zip(loss["ends"], loss["ends"][1:])):
        if loss["num_tokens"] and loss["num_tokens"][k]:
            where = "" if high <= own else ", beyond the base's own"
            shown = [words.number(loss["nats_per_token"][who][k]) for who in WHO]
            rows.append((f"{low:,} to {high:,}{where}", words.count(loss["num_tokens"][k]), *shown))
    return Sheet(
        "Loss by position",
        f"Nats per token, less is better, of {words.things(loss['num_texts'], 'run')} of held-out texts as plain text; "
        "tokens of one text hang together, so small differences mean nothing",
        ("Position", "Tokens", *WHO.values()), tuple(rows),
    )  # fmt: skip


def passkeys(found: Facts) -> Sheet:
    part = found["passkey"]
    rows = []
    for length in part["lengths"]:
        at = [k for k, (of, _) in enumerate(part["asked"]) if of == length]
        if at:
            rows.append((words.count(length), *(where(part, part["found"][who], at) for who in WHO)))
    return Sheet(
        "Passkeys found",
        "A number hidden in repeated text and asked for at its end; found: the model would write it. Behind the count: "
        "how deep in the text it stood where none was lost",
        ("Tokens", *WHO.values()), tuple(rows),
    )  # fmt: skip


def where(part: Facts, found: Sequence[bool], at: Sequence[int]) -> str:
    """How many of these, and, where it was some, at which depths all of them."""
    num = sum(found[k] for k in at)
    lost = {part["asked"][k][1] for k in at if not found[k]}
    kept = [f"{100 * depth:.0f}%" for depth in sorted({part["asked"][k][1] for k in at} - lost)]
    return f"{num} of {len(at)}" + (f", at {', '.join(kept)}" if kept and lost else "")
