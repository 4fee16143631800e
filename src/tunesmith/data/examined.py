"""All that `tunesmith audit` looks for: what every run is told, and the findings that take longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np

from tunesmith.data import alike, label_errors, leaks, shift, triggers
from tunesmith.data.audit import FEW_PER_CLASS, audit, contradicting
from tunesmith.data.audit import summary_lines as audit_lines
from tunesmith.data.blemishes import blemishes
from tunesmith.data.columns import Columns
from tunesmith.data.doubtful import Doubts, lines
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, prompt_of
from tunesmith.data.ingest import Ingested
from tunesmith.data.progress import Step, untold
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered
from tunesmith.data.split import Split
from tunesmith.data.stored import Chosen, Joined
from tunesmith.data.traits import column
from tunesmith.types import Example

HISTOGRAM = 24  # columns
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
        self, read: Ingested, split: Split, rendered: Rendered, others: Sequence[Ingested] = ()
    ) -> dict[str, Any]:
        """The content of audit.json with `findings`."""
        self.read = read
        found, step = audit(read, split, rendered, others), self.step
        every: Sequence[Example] = reduce(Joined, (one.examples for one in (read, *others)))
        apart = shift.compared(split, self.inputs(read.columns) if self.inputs is not None else ())
        findings = [
            *counted(found, every, read.examples),
            *blemishes(every, step, self.doubts.drop),
            *self.doubts.findings(every, step),
            *leaks.findings(read.examples, split, step),
            *label_errors.findings(split.train, step),
            *shift.findings(apart),
            *shift.linked(read.examples, step),
            *triggers.findings(read.examples, step),
        ]
        self.doubts.listed(findings)
        counts, edges = np.histogram(sizes_of(rendered.records).path, HISTOGRAM)
        found["tokens"] |= asdict(self.room)
        found["tokens"]["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
        found["findings"] = [one.as_dict() for one in findings]
        return found | self.doubts.facts() | {"alike": shift.facts(apart)}


def counted(found: dict[str, Any], examples: Sequence[Example], train: Sequence[Example]) -> list[Finding]:
    """What `audit` has counted, as findings. `train`: the examples of the training file."""
    made: list[Finding] = []

    def add(
        kind: str, count: int, of: int, rows: Sequence[Row] = (), numbers: Callable[[], np.ndarray] | None = None
    ) -> None:
        """`numbers`: of the examples of `train` that it is about."""
        if count:
            one = finding(kind, count, of, rows)
            made.append(replace(one, every=partial(_sources, train, numbers)) if numbers else one)

    num = found["understood"]["accepted"]  # rows of the training file
    rejected, doubles, contradicted = found["rejected"], found["duplicates"], found["contradictions"]
    bad = [Row(f"{r['file']}:{r['line']}", r["reason"]) for r in rejected["rows"]]
    add("rejected", rejected["count"], found["rows"], bad)
    for kind in ("dropped", "cut"):
        rows = [Row(r["source"], "", r.get("reason", "")) for r in found[kind]["examples"]]
        add(kind, found[kind]["count"], found["splits"]["train"], rows)
    add("exact_duplicates", doubles["exact"]["count"], num, _rows(doubles["exact"], examples))
    like = _rows(doubles["normalised"], examples)
    add("masked_duplicates", doubles["normalised"]["count"], num, like, lambda: alike.again(column(train, "text")))
    opposed = [
        Row(places[0], "", "; ".join(f"{name}: {', '.join(p[:3])}" for name, p in labels.items()))
        for labels in contradicted["examples"]
        for places in [next(iter(labels.values()))]
    ]
    add("contradictions", contradicted["rows"], num, opposed, lambda: contradicting(train)[1])
    add("moved", found["moved"]["count"], found["accepted"],
        [Row(m["source"], "", f"stands in {m['stands_in']}") for m in found["moved"]["examples"]])  # fmt: skip
    add("twins", found["twins"]["count"], found["splits"]["test"], _rows(found["twins"], examples))
    classes = {name: n["train"] for name, n in found["classes"].items()}
    few = {name: n for name, n in classes.items() if 0 < n < FEW_PER_CLASS}
    add(
        "rare_labels", sum(few.values()), sum(classes.values()), [Row("", name, f"{n} rows") for name, n in few.items()]
    )
    most = max(classes, key=lambda name: classes[name], default="")
    if most and classes[most] > MOST_OF_ONE_FRAC * sum(classes.values()):
        add("one_label", classes[most], sum(classes.values()), [Row("", most)])
    unseen = {name: n["test"] for name, n in found["classes"].items() if not n["train"] and n["test"]}
    add("unseen_labels", sum(unseen.values()), found["splits"]["test"], [Row("", name) for name in unseen])
    return made


def _sources(examples: Sequence[Example], numbers: Callable[[], np.ndarray]) -> list[str]:
    return [example.source for example in Chosen(examples, numbers())]


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
        said += [f"           {one['mend']}"]
    return said
