"""What was found in the data: counts that add up, with the lines behind them. Written to audit.json, told to people in
lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data import alike, synthetic
from tunesmith.data.contained import Within
from tunesmith.data.ingest import Ingested, Rejected
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered
from tunesmith.data.split import OLD, PLACES, Split
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import column, label_counts
from tunesmith.data.understood import understood
from tunesmith.types import Example, Label

PIECE = 4096  # prompts that are compared at a time
MAX_LISTED = 200  # lines kept of each kind of finding; counts are of all
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
FEW_PER_CLASS = 8
TOO_LONG_FRAC = 0.05  # of the training examples, from which on their loss is told beside the verdict

Look = Callable[[Ingested, Split, Rendered, Sequence[Ingested], Within | None], dict[str, Any]]  # writes audit.json


def audit(
    ingested: Ingested, split: Split, rendered: Rendered, others: Sequence[Ingested] = (), within: Within | None = None
) -> dict[str, Any]:
    """The content of audit.json. `ingested` is the training file, `rendered` the training split; `others` are files of
    dev and test: a row of theirs that is rejected is a held-out case less. `within`: what training rows contain of
    public tests."""
    examples = ingested.examples
    read = (ingested, *others)
    rejected = [row for one in read for row in one.rejected[:MAX_LISTED]]
    source = _sources(examples, {*(i for i, _ in rendered.dropped[:MAX_LISTED]), *rendered.cut[:MAX_LISTED]})
    found: dict[str, Any] = {
        "rows": sum(one.num_rows for one in read),
        "accepted": sum(len(one.examples) for one in read),
        "rejected": {
            "count": sum(len(one.rejected) for one in read),
            "rows": [asdict(r) for r in rejected[:MAX_LISTED]],
        },
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
        "moved": {
            "count": len(split.moved),
            "old": sum(m.stands_in == PLACES[OLD] for m in split.moved),
            "examples": [asdict(m) for m in split.moved[:MAX_LISTED]],
        },
        "near": {"together": split.num_together, "apart": split.num_apart},
        "synthetic": synthetic.facts(split.train),
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
    if within is not None:
        found["contaminated"] = within.facts
        found["warnings"] += [within.warning] if within.warning else []
    return found


def _sources(examples: Sequence[Example], wanted: set[str]) -> dict[str, str]:
    """file:line of these ids."""
    return {e.id: e.source for e in examples if e.id in wanted} if wanted else {}


def _tokens(rendered: Rendered) -> dict[str, Any]:
    sizes = sizes_of(rendered.records)
    total, learned = int(sizes.tokens.sum()), int(sizes.learned.sum())
    return {
        "total": total,
        "learned": learned,
        "learned_frac": learned / total if total else 0.0,
        "length_quantiles": _quantiles(sizes.path),
        "reply_quantiles": _quantiles(sizes.learned),
    }


def _quantiles(values: np.ndarray) -> dict[str, int]:
    return {f"{q:g}": int(np.quantile(values, q)) for q in QUANTILES} if values.size else {}


def _duplicates(examples: Sequence[Example]) -> dict[str, Any]:
    """Rows beyond the first of each kind: identical ones, and those that differ in case, white space or digits only."""
    first, again = alike.first_like(column(examples, "text")), column(examples, "again")
    is_near = ~again & (first < np.arange(len(first), dtype=np.uint32))
    near = [(at, int(first[at])) for at in np.flatnonzero(is_near)[:MAX_LISTED].tolist()]
    exact = [examples[at] for at in np.flatnonzero(again)[:MAX_LISTED].tolist()]
    return {
        "exact": {"count": int(again.sum()), "examples": [{"id": e.id, "source": e.source} for e in exact]},
        "normalised": {
            "count": int(is_near.sum()),
            "examples": [
                {"id": examples[at].id, "source": examples[at].source, "like": examples[like].source}
                for at, like in near
            ],
        },
    }


def _contradictions(examples: Sequence[Example]) -> dict[str, Any]:
    """Prompts that stand with more than one label. Several replies to one prompt are no contradiction, and are not
    counted.
    """
    first, at = contradicting(examples)
    prompts = np.unique(first)
    listed = [_by_label(Chosen(examples, at), np.flatnonzero(first == one)) for one in prompts[:MAX_LISTED]]
    return {"prompts": len(prompts), "rows": len(at), "examples": listed}


def contradicting(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(first row of the same prompt, number of the row) of all rows whose prompt has more than one label."""
    label = column(examples, "label")
    labelled = np.flatnonzero(label >= 0).astype(np.uint32)
    label = label[labelled]
    first = alike.first_like(column(examples, "prompt")[labelled])
    is_bad = np.zeros(len(first), bool)
    is_bad[first[label != label[first]]] = True
    return first[is_bad[first]], labelled[is_bad[first]]


def _by_label(labelled: Sequence[Example], members: np.ndarray) -> dict[str, list[str]]:
    """Label -> file:line of the first that have it."""
    found: dict[str, list[str]] = {}
    for example in Chosen(labelled, members):
        assert isinstance(example.target, Label)
        there = found.setdefault(example.target.name, [])
        if len(there) < MAX_LISTED:
            there.append(example.source)
    return found


def _classes(split: Split) -> dict[str, dict[str, int]]:
    """Rows per label and split; {} where there are no labels."""
    parts = {"train": split.train, "dev": split.dev, "test": split.test}
    counts = {name: label_counts(part) for name, part in parts.items()}
    names = sorted({label for c in counts.values() for label in c})
    return {label: {name: counts[name][label] for name in parts} for label in names}


def _twins(split: Split) -> dict[str, Any]:
    """Test prompts that stand in train once digits are masked: no leak by the key, but hardly a test either."""
    like = like_training(split)
    twins = np.flatnonzero(like >= 0).tolist()
    listed = [(split.test[i], split.train[int(like[i])]) for i in twins[:MAX_LISTED]]
    return {
        "count": len(twins),
        "examples": [{"id": e.id, "source": e.source, "like": other.source} for e, other in listed],
    }


def like_training(split: Split) -> np.ndarray:
    """Of each test example the number of the last training one whose prompt is the same once digits are masked, or
    -1."""
    asked = column(split.test, "masked")
    known, train = np.unique(asked), column(split.train, "masked")
    last = np.full(len(known), -1, np.int64)
    for begin in range(0, len(train), PIECE):
        at = alike.places(known, train[begin : begin + PIECE])
        there = np.flatnonzero(at >= 0)
        last[at[there]] = begin + there
    return last[np.searchsorted(known, asked)]


def twins(split: Split) -> np.ndarray:
    """Numbers of the training examples whose prompt is that of a test one once digits are masked."""
    at = alike.places(np.unique(column(split.test, "masked")), column(split.train, "masked"))
    found: np.ndarray = np.flatnonzero(at >= 0)
    return found


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
    if found["synthetic"]["count"]:
        lines.append(
            f"{found['synthetic']['count']} training rows ({found['synthetic']['share']:.0%}) were written by a model; "
            "--set data.synthetic=false leaves them out, to see what they bring"
        )
    if found["twins"]["count"]:
        share = found["twins"]["count"] / max(1, found["splits"]["test"])
        lines.append(
            f"{found['twins']['count']} test prompts ({share:.0%}) stand in training once digits are masked: the test "
            "is easier than use"
        )
    if found["near"]["apart"]:
        lines.append(
            f"{found['near']['apart']} rows have too many near copies to stay on one side of the split, and were drawn "
            "one by one: the test holds rows like those in training. Say what they share in data.columns.group"
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


def list_rejected(rejected: Sequence[Rejected], found: dict[str, Any], path: Path) -> bool:
    """Writes all of them, file:line: reason, where they are more than audit.json (`found`) lists; whether it did."""
    if len(rejected) <= len(found["rejected"]["rows"]):
        return False
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(f"{row}\n" for row in rejected)
    return True


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
        f"{found['moved']['count']}"
        + (f"; {found['near']['together']} kept on one side with near copies" if found["near"]["together"] else ""),
        f"training   {splits['train'] - found['dropped']['count']} examples rendered, {found['dropped']['count']} "
        f"dropped, {found['cut']['count']} cut",
    ]
    if length:
        lines.append(
            f"tokens     {tokens['total']} of prompts; length median {length['0.5']}, longest {length['1']}"
            if "facts" in found["understood"]["columns"]
            else f"tokens     {tokens['total']}, {tokens['learned_frac']:.1%} learned; length median {length['0.5']}, "
            f"longest {length['1']}; learned per example median {reply['0.5']}, most {reply['1']}"
        )
    if found["classes"]:
        counts = {name: n["train"] for name, n in found["classes"].items()}
        most, least = max(counts, key=lambda n: counts[n]), min(counts, key=lambda n: counts[n])
        lines.append(
            f"labels     {len(counts)}; most {most} ({counts[most]}), fewest {least} ({counts[least]}) in training"
        )
    return lines + [f"note       {warning}" for warning in found["warnings"]]
