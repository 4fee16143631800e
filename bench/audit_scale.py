"""A whole `tunesmith audit` of many rows: the most memory, and the seconds of each stage, for two sizes and more.

    python bench/audit_scale.py [--rows 100000 1000000] [--kind labels texts] [--model FOLDER] [--pack]

Each size runs in a process of its own, whose memory the kernel counts, stage by stage (VmHWM, set back at the begin of
each where it may be). Rows are made up: short texts out of a vocabulary of 50,000 words, with labels or replies; one
of 20 is nearly an earlier one, one of 100 identical to one, one of 100 cannot be read, one of 50 has an e-mail address,
one of 10 replies ends with the same sentence. `--pack` lays the training records into updates as well, as an epoch
would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records

KINDS = ("labels", "texts")
VOCABULARY, WORDS = 50_000, 12
STOCK = "Have a very nice day, yours sincerely."
COPIED_FROM = 1000  # of the rows before


def rows(num: int, kind: str) -> Iterator[str]:
    """Lines of JSON."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(3, 9))) for _ in range(VOCABULARY)]
    last: list[dict[str, str]] = []
    for i in range(num):
        prompt, place = " ".join(draw.choices(words, k=WORDS)), draw.randrange(100)
        row = {"text": prompt, "label": "abc"[draw.randrange(3)], "region": f"r{draw.randrange(40)}"}
        if kind == "texts":
            ends = STOCK if i % 10 == 3 else f"{' '.join(draw.choices(words, k=6))}."
            row = {"prompt": prompt, "completion": f"{' '.join(draw.choices(words, k=12))}. {ends}"}
        asked = "text" if kind == "labels" else "prompt"
        if place < 5 and last:
            row = dict(draw.choice(last))
            row[asked] = " ".join([*row[asked].split()[:-1], draw.choice(words)])
        elif place == 5 and last:
            row = dict(draw.choice(last))
        elif place == 6:
            row[asked] = ""
        elif place in (7, 8):
            row[asked] += f" ann{i % 997}@mail-of-{words[i % 100]}.org"
        last[i % COPIED_FROM : i % COPIED_FROM + 1] = [row]
        yield json.dumps(row)


def peak_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


class Stages:
    """Of each step that is told, seconds and the peak until the next one begins."""

    def __init__(self) -> None:
        self.name, self.began, self.found = "start", time.perf_counter(), dict[str, dict[str, float]]()

    def __call__(self, done: int, total: int, text: str) -> None:
        if text != self.name:
            self.end(text)

    def end(self, then: str = "") -> None:
        now = self.found.setdefault(self.name, {"seconds": 0.0, "peak_mib": 0.0})
        now["seconds"] += time.perf_counter() - self.began
        now["peak_mib"] = max(now["peak_mib"], peak_mib())
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.name, self.began = then, time.perf_counter()


def audited(path: Path, model: str, *, packs: bool) -> dict[str, Any]:
    from tunesmith import build, recipe
    from tunesmith.data.doubtful import Doubts
    from tunesmith.data.examined import Look, Room
    from tunesmith.data.feed import FileFeed

    asked = {"model": model, "data.train": [str(path)]}
    asked |= {"data.columns.slices": ["region"]} if "labels" in path.name else {}
    said, _ = recipe.read(None, asked)
    base = build.load_base(said, build.compute(said))
    stages = Stages()
    look = Look(Doubts(), Room(said.data.max_tokens, base.context_tokens), step=stages)
    made = build.material(said, base, step=stages, look=look)
    if packs:
        stages(0, 1, "packed")
        feed = FileFeed(made.train.records, 4096, 2048, 1, 0)
        for _ in range(feed.num_updates):
            feed.update()
    stages.end()
    findings = {one["kind"]: one["count"] for one in made.audit["findings"]}
    facts = {key: made.audit[key] for key in ("rows", "accepted", "splits", "near")}
    return facts | {
        "rejected": made.audit["rejected"]["count"], "findings": findings, "stages": stages.found,
        "peak_mib": max(one["peak_mib"] for one in stages.found.values()),
        "seconds": sum(one["seconds"] for one in stages.found.values()),
    }  # fmt: skip


def child(path: Path, model: str, *, packs: bool, cache: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", str(path), "--model", model, *(["--pack"] if packs else [])]
    told = {**os.environ, "TUNESMITH_CACHE": str(cache)} if model != "smollm2-135m-instruct" else dict(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, env=told)
    if done.returncode:
        raise SystemExit(f"{path} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--keep", action="store_true", help="append to the results; figures of a busy machine are none")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(audited(Path(args.side), args.model, packs=args.pack)))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in args.kind:
        for num in args.rows:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{kind}.jsonl"
                with path.open("w") as file:
                    file.writelines(f"{line}\n" for line in rows(num, kind))
                told = child(path, args.model, packs=args.pack, cache=Path(folder))
            found.setdefault(kind, []).append(told)
            print(f"{kind}, {num:,} rows: {told['peak_mib']:.0f} MiB, {told['seconds']:.0f} s", flush=True)
            for name, one in told["stages"].items():
                print(f"    {one['peak_mib']:6.0f} MiB {one['seconds']:7.1f} s  {name}", flush=True)
            print("   ", told["findings"], told["splits"], told["near"], flush=True)
    if args.keep:
        records.keep(__file__, "a whole audit", {"model": args.model, "packs": args.pack}, {}, audits=found)


if __name__ == "__main__":
    main()
