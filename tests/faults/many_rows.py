"""Prepares and trains on a file of many rows, and tells the most memory it took: `python -m tests.faults.many_rows`
FILE [MODEL]. Without a model folder nothing is rendered: records are made up, so that CI has the time."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.runs import tiny_runs

from tunesmith.data import ingest, stored
from tunesmith.data.audit import audit
from tunesmith.data.feed import FileFeed
from tunesmith.data.records import Records
from tunesmith.data.render import Rendered
from tunesmith.data.split import split
from tunesmith.data.stored import listed
from tunesmith.types import Example, Record, Segment

BAD_EVERY = 50  # rows, of which one has no answer


def made_up(num: int) -> Iterator[dict[str, str]]:
    rng = random.Random(3)
    for i in range(num):
        word = rng.choice(tiny_runs.WORDS)
        prompt = f"{' '.join(rng.choices(tiny_runs.WORDS, k=6))} {word} {i}: what is it?"
        yield {"prompt": prompt, "completion": "" if i % BAD_EVERY == 7 else f"the {word} {i % 97}"}


def written(path: Path, num: int) -> Path:
    """In batches, so that the parent's memory is not the child's."""
    if path.suffix == ".parquet":
        schema = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            writer.write_table(pa.Table.from_pylist(list(made_up(num)), schema))  # one row group, as most tools write
        return path
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("prompt,completion\n")
        for row in made_up(num):
            file.write((json.dumps(row) if path.suffix == ".jsonl" else f"{row['prompt']},{row['completion']}") + "\n")
    return path


def peak_mib() -> float:
    """The most that this process ever had in memory, as the kernel counts it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def unrendered(examples: Sequence[Example]) -> Rendered:
    records = Records()
    for example in examples:
        tokens = np.frombuffer(example.prompt[0].content.encode()[:60], np.uint8).astype(np.int64)
        records.append(Record(example.id, (Segment(tokens, np.ones(len(tokens), np.float32)),)))
    return Rendered(records, listed(lambda name, why: (name, why)), listed(str))


def parts_alone(path: Path) -> dict[str, Any]:
    found = ingest.read([path])
    parts = split(found.examples, 0.1, 0.1, "salt")
    rendered = unrendered(parts.train)
    facts = audit(found, parts, rendered)
    feed = FileFeed(rendered.records, 8192, 4096, 2, 0)
    feed.shape()
    for _ in range(3):
        feed.update()
    return facts | {"digest": feed.digest}


def whole(path: Path, model: Path) -> dict[str, Any]:
    """As `tunesmith run` prepares and trains, three updates long."""
    from tunesmith import build, fitted, plan, speeds
    from tunesmith.engine.loop import train
    from tunesmith.engine.session import Session
    from tunesmith.recipe import parse

    recipe = parse(tiny_runs.settings(model, path, max_updates=3))
    where = build.compute(recipe)
    base = build.load_base(recipe, where)
    told = mark("model loaded")
    made = build.material(recipe, base)
    told |= mark("prepared")
    with tempfile.TemporaryDirectory() as folder:
        made.split.ledger.save(Path(folder) / "ledger.json")
        told |= mark("ledger saved")
    found = fitted.fit(recipe, base, made, where)
    tried = speeds.try_out(found, base, made)
    tried.session.close()
    plan.make(found, base, made, where, tried.speeds, 0.0)
    told |= mark("planned")
    session = Session(base)
    updates = build.num_updates(found.recipe, found.feed)
    train(session, build.start(found.recipe, session, made, updates), found.feed, updates)
    return made.audit | {"digest": found.feed.digest, **told, **mark("trained")}


def mark(stage: str) -> dict[str, str]:
    return {stage: f"{peak_mib():.1f} MiB, {time.process_time():.0f} s"}


def in_lists() -> None:
    """The mutant: every row that is stored stays in memory as well."""
    plain = stored.Stored.append

    def append(self: Any, thing: Any) -> None:
        plain(self, thing)
        self.__dict__.setdefault("held", []).append(thing)

    stored.Stored.append = append  # type: ignore[method-assign]


def main(path: str, model: str = "") -> None:
    if os.environ.get("TUNESMITH_MUTANT") == "list":
        in_lists()
    facts = whole(Path(path), Path(model)) if model else parts_alone(Path(path))
    told = {k: v for k, v in facts.items() if isinstance(v, (str, int))}
    told |= {"rejected": facts["rejected"]["count"], "first": facts["rejected"]["rows"][0]}
    print(json.dumps(told | {"peak_mib": peak_mib(), "seconds": time.process_time()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
