"""What was found in the data: counts that add up, with the lines behind them. Written to audit.json, told to people in
lines.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tunesmith.data.ingest import Ingested
from tunesmith.data.pack import path_tokens
from tunesmith.data.render import Rendered
from tunesmith.data.split import Split, normalised
from tunesmith.data.understood import understood
from tunesmith.types import Example, Label, Pair, Reply

MAX_LISTED = 200  # lines kept of each kind of finding; counts are of all
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
FEW_PER_CLASS = 8
TOO_LONG_FRAC = 0.05  # of the training examples, from which on their loss is told beside the verdict
DIGITS = re.compile(r"\d+")


def audit(ingested: Ingested, split: Split, rendered: Rendered, others: Sequence[Ingested] = ()) -> dict[str, Any]:
    """The content of audit.json. `ingested` is the training file, `rendered` the training split; `others` are files of
    dev and test: a row of theirs that is rejected is a held-out case less."""
    examples = ingested.examples
    read = (ingested, *others)
    rejected = [row for one in read for row in one.rejected]
    source = {e.id: e.source for e in (*split.train, *split.dev, *split.test, *examples)}
    found: dict[str, Any] = {
        "rows": sum(one.num_rows for one in read),
        "accepted": sum(len(one.examples) for one in read),
        "rejected": {"count": len(rejected), "rows": [asdict(r) for r in rejected[:MAX_LISTED]]},
        "dropped": {
            "count": len(rendered.dropped),
            "examples": [
                {"id": i, "source": source.get(i, ""), "reason": why} for i, why in rendered.dropped[:MAX_LISTED]
            ],
        },
        "cut": {
            "count": len(rendered.cut),
            "examples": [{"id": i, "source": source.get(i, "")} for i in rendered.cut[:MAX_LISTED]],
        },
        "splits": {"train": len(split.train), "dev": len(split.dev), "test": len(split.test)},
        "moved": {"count": len(split.moved), "examples": [asdict(m) for m in split.moved[:MAX_LISTED]]},
        "columns": {k: v for k, v in asdict(ingested.columns).items() if v},
        "ignored_columns": list(ingested.ignored),
        "files": {path: digest for one in read for path, digest in one.files.items()},
        "tokens": _tokens(rendered),
        "duplicates": _duplicates(examples),
        "contradictions": _contradictions(examples),
        "classes": _classes(split),
        "twins": _twins(split),
    }
    found["understood"] = understood(ingested, rendered)
    found["warnings"] = _warnings(found)
    return found


def _tokens(rendered: Rendered) -> dict[str, Any]:
    lengths = np.array([path_tokens(r) for r in rendered.records])
    replies = np.array([r.num_learned for r in rendered.records])
    total = sum(r.num_tokens for r in rendered.records)
    return {
        "total": total,
        "learned": int(replies.sum()),
        "learned_frac": float(replies.sum() / total) if total else 0.0,
        "length_quantiles": _quantiles(lengths),
        "reply_quantiles": _quantiles(replies),
    }


def _quantiles(values: np.ndarray) -> dict[str, int]:
    return {f"{q:g}": int(np.quantile(values, q)) for q in QUANTILES} if values.size else {}


def _prompt(example: Example) -> str:
    return "\n".join(f"{m.role}: {normalised(m.content)}" for m in example.prompt)


def _answer(example: Example) -> str:
    target = example.target
    if isinstance(target, (Reply, Label)):
        return normalised(target.text)
    return normalised(target.chosen.content) if isinstance(target, Pair) else ""


def masked(text: str) -> str:
    """Digits as 0, so that twins from one template are found."""
    return DIGITS.sub("0", text)


def _duplicates(examples: Sequence[Example]) -> dict[str, Any]:
    """Rows beyond the first of each kind: identical ones, and those that differ in case, white space or digits only."""
    exact = [e for e in examples if not e.id.endswith("-1")]
    seen: dict[str, str] = {}
    near: list[dict[str, str]] = []
    for example in examples:
        text = masked(f"{_prompt(example)}\0{_answer(example)}")
        if text in seen and example.id.endswith("-1"):
            near.append({"id": example.id, "source": example.source, "like": seen[text]})
        seen.setdefault(text, example.source)
    return {
        "exact": {"count": len(exact), "examples": [{"id": e.id, "source": e.source} for e in exact[:MAX_LISTED]]},
        "normalised": {"count": len(near), "examples": near[:MAX_LISTED]},
    }


def _contradictions(examples: Sequence[Example]) -> dict[str, Any]:
    """Prompts that stand with more than one label. Several replies to one prompt are no contradiction, and are not
    counted.
    """
    labels: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        if isinstance(example.target, Label):
            labels[_prompt(example)][example.target.name].append(example.source)
    bad = [dict(by_label) for by_label in labels.values() if len(by_label) > 1]
    rows = sum(len(sources) for by_label in bad for sources in by_label.values())
    return {"prompts": len(bad), "rows": rows, "examples": bad[:MAX_LISTED]}


def _classes(split: Split) -> dict[str, dict[str, int]]:
    """Rows per label and split; {} where there are no labels."""
    parts = {"train": split.train, "dev": split.dev, "test": split.test}
    counts = {name: Counter(e.target.name for e in part if isinstance(e.target, Label)) for name, part in parts.items()}
    names = sorted({label for c in counts.values() for label in c})
    return {label: {name: counts[name][label] for name in parts} for label in names}


def _twins(split: Split) -> dict[str, Any]:
    """Test prompts that stand in train once digits are masked: no leak by the key, but hardly a test either."""
    like = like_training(split)
    twins = [{"id": e.id, "source": e.source, "like": like[e.id]} for e in split.test if e.id in like]
    return {"count": len(twins), "examples": twins[:MAX_LISTED]}


def like_training(split: Split) -> dict[str, str]:
    """Test example -> file:line of a training prompt that is the same once digits are masked."""
    train = {masked(_prompt(e)): e.source for e in split.train}
    return {e.id: train[p] for e in split.test if (p := masked(_prompt(e))) in train}


def _warnings(found: dict[str, Any]) -> list[str]:
    """What a person should look at before training, in sentences."""
    lines = list(found["understood"]["notices"])
    rejected, rows = found["rejected"]["count"], found["rows"]
    if rejected:
        first = found["rejected"]["rows"][0]
        lines.append(
            f"{rejected} of {rows} rows were rejected; the first: {first['file']}:{first['line']}: {first['reason']}"
        )
    if found["dropped"]["count"]:
        lines.append(
            f"{found['dropped']['count']} examples were dropped; the first: {found['dropped']['examples'][0]['reason']}"
        )
    if found["cut"]["count"]:
        lines.append(
            f"the prompts of {found['cut']['count']} training examples were cut in the middle to fit data.max_tokens; "
            "held-out prompts are asked whole"
        )
    if found["moved"]["count"]:
        lines.append(
            f"{found['moved']['count']} rows also stood in another split and were taken out: test rows never stand in "
            "training"
        )
    if found["twins"]["count"]:
        share = found["twins"]["count"] / max(1, found["splits"]["test"])
        lines.append(
            f"{found['twins']['count']} test prompts ({share:.0%}) stand in training once digits are masked: the test "
            "is easier than use"
        )
    exact, near = found["duplicates"]["exact"]["count"], found["duplicates"]["normalised"]["count"]
    if exact + near > 0.01 * found["understood"]["accepted"]:
        lines.append(f"{exact} rows are identical to an earlier one, {near} more but for case, white space or digits")
    if found["contradictions"]["prompts"]:
        c = found["contradictions"]
        lines.append(f"{c['prompts']} prompts ({c['rows']} rows) stand with more than one label")
    few = [name for name, n in found["classes"].items() if n["train"] < FEW_PER_CLASS]
    if few:
        lines.append(
            f"fewer than {FEW_PER_CLASS} training rows for {len(few)} of {len(found['classes'])} labels: "
            f"{', '.join(few[:5])}"
        )
    unseen = [name for name, n in found["classes"].items() if not n["train"] and n["test"]]
    if unseen:
        lines.append(f"labels in test that training never shows: {', '.join(unseen[:5])}")
    return lines


def too_long(found: dict[str, Any]) -> list[str]:
    """For the verdict: where so many training examples were shortened or left out that it may show in the answers."""
    num, said = max(1, found["splits"]["train"]), []
    for kind, what in (
        (
            "cut",
            "had their prompt cut in the middle (data.max_tokens, data.too_long); held-out prompts were asked whole.",
        ),
        (
            "dropped",
            "were left out, most often because they are too long (data.max_tokens): it learned from the others.",
        ),
    ):
        if found[kind]["count"] >= TOO_LONG_FRAC * num:
            said.append(f"{found[kind]['count']:,} of {num:,} training examples {what}")
    return said


def summary_lines(found: dict[str, Any]) -> list[str]:
    """audit.json for people: what was understood, the counts, the warnings."""
    columns = ", ".join(f"{kind} = {names}" for kind, names in found["understood"]["spelled"].items())
    tokens, splits, messages = found["tokens"], found["splits"], found["understood"]["messages"]
    unit = f"conversations (of {messages} lines) " if messages else ""
    length, reply = tokens["length_quantiles"], tokens["reply_quantiles"]
    lines = [
        f"columns    {columns}"
        + (f"; not used: {', '.join(found['ignored_columns'])}" if found["ignored_columns"] else ""),
        f"rows       {found['rows']} {unit}read = {found['accepted']} accepted + {found['rejected']['count']} rejected",
        f"splits     train {splits['train']}, dev {splits['dev']}, test {splits['test']}; taken out "
        f"{found['moved']['count']}",
        f"training   {splits['train'] - found['dropped']['count']} examples rendered, {found['dropped']['count']} "
        f"dropped, {found['cut']['count']} cut",
    ]
    if length:
        lines.append(
            f"tokens     {tokens['total']}, {tokens['learned_frac']:.1%} learned; length median {length['0.5']}, "
            f"longest {length['1']}; "
            f"learned per example median {reply['0.5']}, most {reply['1']}"
        )
    if found["classes"]:
        counts = {name: n["train"] for name, n in found["classes"].items()}
        most, least = max(counts, key=lambda n: counts[n]), min(counts, key=lambda n: counts[n])
        lines.append(
            f"labels     {len(counts)}; most {most} ({counts[most]}), fewest {least} ({counts[least]}) in training"
        )
    return lines + [f"note       {warning}" for warning in found["warnings"]]
