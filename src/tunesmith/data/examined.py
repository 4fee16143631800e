"""All that `tunesmith audit` looks for: what every run is told, and the findings that take longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np

from tunesmith.data import alike, label_errors, leaks, shift, triggers
from tunesmith.data.audit import FEW_PER_CLASS, audit, contradicting, twins
from tunesmith.data.audit import summary_lines as audit_lines
from tunesmith.data.blemishes import blemishes
from tunesmith.data.columns import Columns
from tunesmith.data.contained import Within
from tunesmith.data.doubtful import Doubts, lines
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of
from tunesmith.data.ingest import Ingested
from tunesmith.data.progress import Step, untold
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered
from tunesmith.data.split import Split
from tunesmith.data.stored import Chosen, Joined
from tunesmith.data.traits import column, label_names
from tunesmith.types import Example, Label

HISTOGRAM = 24  # columns
TOO_MANY = "tokens, more than"  # in the reason why an example was left out
MOST_OF_ONE_FRAC = 0.9  # of the training rows, that have one label


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens of an example: what data.max_tokens lets in, and what the model reads (None: it says no limit)."""

    max_tokens: int
    context_tokens: int | None


@dataclass(slots=True)
class Look:
    """What `tunesmith audit` does with the data; it keeps the rows that were read."""

    doubts: Doubts
    room: Room
    inputs: Callable[[Columns], Sequence[str]] | None = None  # what will really be asked, by the columns of training
    step: Step = untold
    read: Ingested = field(init=False)

    def __call__(
        self, read: Ingested, split: Split, rendered: Rendered, others: Sequence[Ingested] = (),
        within: Within | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The content of audit.json with `findings`."""
        self.read = read
        found, step = audit(read, split, rendered, others, within), self.step
        every: Sequence[Example] = reduce(Joined, (one.examples for one in (read, *others)))
        apart = shift.compared(split, self.inputs(read.columns) if self.inputs is not None else ())
        findings = [
            *counted(found, every, read.examples, split, rendered.dropped),
            *blemishes(every, step, self.doubts.drop),
            *self.doubts.findings(every, step),
            *leaks.findings(read.examples, split, step),
            *label_errors.findings(split.train, step),
            *shift.findings(apart, split),
            *shift.linked(read.examples, step),
            *triggers.findings(read.examples, step),
            *([within.finding] if within is not None and within.finding is not None else []),
        ]
        self.doubts.listed(findings)
        counts, edges = np.histogram(sizes_of(rendered.records).path, HISTOGRAM)
        found["tokens"] |= asdict(self.room)
        found["tokens"]["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
        found["findings"] = [one.as_dict() for one in findings]
        return found | self.doubts.facts() | {"alike": shift.facts(apart)}


def counted(
    found: dict[str, Any], examples: Sequence[Example], train: Sequence[Example], split: Split,
    dropped: Sequence[tuple[str, str]] = (),
) -> list[Finding]:  # fmt: skip
    """What `audit` has counted, as findings. `train`: the examples of the training file; `dropped`: (id, reason) of
    those that are not rendered."""
    made: list[Finding] = []

    def add(
        kind: str, count: int, of: int, rows: Sequence[Row] = (), every: Callable[[], Iterable[str]] | None = None
    ) -> None:
        if count:
            made.append(replace(finding(kind, count, of, rows), every=every))

    num = found["understood"]["accepted"]  # rows of the training file
    rejected, doubles, contradicted = found["rejected"], found["duplicates"], found["contradictions"]
    bad = [Row(f"{r['file']}:{r['line']}", r["reason"]) for r in rejected["rows"]]
    add("rejected", rejected["count"], found["rows"], bad)
    _left_out(found, split.train, dropped, add)
    add("exact_duplicates", doubles["exact"]["count"], num, _rows(doubles["exact"], examples))
    like = _rows(doubles["normalised"], examples)
    add("masked_duplicates", doubles["normalised"]["count"], num, like,
        lambda: _sources(Chosen(train, alike.again(column(train, "text")))))  # fmt: skip
    add(
        "contradictions",
        contradicted["rows"],
        num,
        _opposed(contradicted, train),
        lambda: _sources(Chosen(train, contradicting(train)[1])),
    )
    add("moved", found["moved"]["count"], found["accepted"],
        [Row(m["source"], "", f"stands in {m['stands_in']}") for m in found["moved"]["examples"]],
        lambda: (m.source for m in split.moved if m.out_of == "train"))  # fmt: skip
    add("twins", found["twins"]["count"], found["splits"]["test"], _rows(found["twins"], examples),
        lambda: _sources(Chosen(split.train, twins(split))))  # fmt: skip
    classes = {name: n["train"] for name, n in found["classes"].items()}
    few = {name: n for name, n in classes.items() if 0 < n < FEW_PER_CLASS}

    def labelled(part: Sequence[Example], counts: Mapping[str, int]) -> list[Row]:
        return [Row(where, name, f"{counts[name]} rows") for where, name in first_with(part, counts)]

    add("rare_labels", sum(few.values()), sum(classes.values()),
        labelled(split.train, few),
        lambda: (e.source for e in train if isinstance(e.target, Label) and e.target.name in few))  # fmt: skip
    most = max(classes, key=lambda name: classes[name], default="")
    if most and classes[most] > MOST_OF_ONE_FRAC * sum(classes.values()):
        add("one_label", classes[most], sum(classes.values()), labelled(split.train, {most: classes[most]}))
    unseen = {name: n["test"] for name, n in found["classes"].items() if not n["train"] and n["test"]}
    add("unseen_labels", sum(unseen.values()), found["splits"]["test"], labelled(split.test, unseen))
    return made


def _left_out(
    found: dict[str, Any], train: Sequence[Example], dropped: Sequence[tuple[str, str]], add: Callable[..., None]
) -> None:
    """What was not rendered, for its length or for another reason, and what was cut."""
    of, unusable = found["splits"]["train"], {name for name, reason in dropped if TOO_MANY not in reason}
    rows = {r["id"]: Row(r["source"], "", r["reason"]) for r in found["dropped"]["examples"]}
    add("too_long", len(dropped) - len(unusable), of, [row for name, row in rows.items() if name not in unusable])
    add("unusable", len(unusable), of, [row for name, row in rows.items() if name in unusable],
        lambda: (e.source for e in train if e.id in unusable))  # fmt: skip
    add("cut", found["cut"]["count"], of, [Row(r["source"], "") for r in found["cut"]["examples"]])


def _opposed(contradicted: dict[str, Any], train: Sequence[Example]) -> list[Row]:
    """A row for each prompt: where it stands first, what it says, and where it stands with which label."""
    firsts = np.unique(contradicting(train)[0])[:SHOWN]
    return [
        Row(e.source, excerpt(prompt_of(e)), "; ".join(f"{name}: {', '.join(p[:3])}" for name, p in labels.items()))
        for e, labels in zip(Chosen(train, firsts), contradicted["examples"])
    ]


def first_with(examples: Sequence[Example], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(file:line of the first example with the label, its name) of each label."""
    label, known = column(examples, "label"), label_names(examples)
    for name in names:
        yield examples[int(np.flatnonzero(label == known.index(name))[0])].source, name


def _sources(examples: Iterable[Example]) -> Iterator[str]:
    return (example.source for example in examples)


def _rows(found: dict[str, Any], examples: Sequence[Example]) -> list[Row]:
    """The first that are listed, with what they say."""
    listed = found["examples"][:SHOWN]
    wanted = {row["id"] for row in listed}
    texts = {e.id: excerpt(prompt_of(e)) for e in examples if e.id in wanted} if wanted else {}
    return [
        Row(row["source"], texts.get(row["id"], ""), f"like {row['like']}" if "like" in row else "") for row in listed
    ]


def summary_lines(found: dict[str, Any]) -> list[str]:
    """For people: the counts, then each finding with what mends it."""
    counted, notices = audit_lines({**found, "warnings": []}), found["understood"]["notices"]
    apart = [
        f"alike      training and {name}: a small model that has not seen them tells {one['right_frac']:.0%} right "
        f"(interval {one['low']:.0%} to {one['high']:.0%}; half: they are alike)"
        for name, one in found["alike"].items()
    ]
    tokens = found["tokens"]
    reads = f"; the model reads {tokens['context_tokens']:,}" if tokens["context_tokens"] else ""
    longest = f"longest {tokens['length_quantiles']['1']:,} tokens" if tokens["length_quantiles"] else "none is learned"
    room = f"room       {longest}, of {tokens['max_tokens']:,} that data.max_tokens lets in{reads}"
    said = [*counted, room, *apart, *lines(found), *(f"note       {sentence}" for sentence in notices)]
    for one in found["findings"]:
        first = next((f"; the first: {row['source']}" for row in one["rows"] if row["source"]), "")
        said += [f"found      {one['count']:,} of {one['of']:,} {one['what']}: {one['why']}{first}"]
        said += [f"           {one['mend']}:", f"           {one['command']}"]
    return said
