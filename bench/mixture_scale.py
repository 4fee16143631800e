"""A mixture of three sources read, split, rendered, mixed and packed: the most memory, and the seconds of each stage.

    python bench/mixture_scale.py [--rows 100000 1000000] [--model FOLDER] [--weights]

Each size runs in a process of its own, whose memory the kernel counts. Rows are made up (bench/audit_scale.py): 70, 25
and 5 of 100 in the three sources, the second with two phrasings; FLAN's cap at a third of the rows and temperature 2,
or weights (3, 2, 1). An epoch is packed update by update; a second feed goes on from the state at its middle, and
has to give the same rows from there on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.audit_scale import Stages, rows

SHARES = {"big": 0.70, "middle": 0.25, "small": 0.05}
WEIGHTS = {"big": 3, "middle": 2, "small": 1}
WAYS = [{"prompt": "{prompt}"}, {"prompt": "Go on: {prompt}"}]
COMPARED = 200  # updates behind the middle


def recipe_of(folder: Path, model: str, num: int, *, weights: bool) -> dict[str, Any]:
    sources = [
        {"name": name, "files": [str(folder / f"{name}.jsonl")], **({"weight": WEIGHTS[name]} if weights else {}),
         **({"templates": WAYS} if name == "middle" else {})}
        for name in SHARES
    ]  # fmt: skip
    mixing = {"rows": num // 2} if weights else {"cap": num // 3, "temperature": 2.0}
    return {"model": model, "data.sources": sources, "data.mixing": mixing, "task.instruction": ""}


def mixed(folder: Path, model: str, num: int, *, weights: bool) -> dict[str, Any]:
    from tunesmith import build, recipe
    from tunesmith.data.feed import FileFeed

    said, _ = recipe.read(None, recipe_of(folder, model, num, weights=weights))
    base = build.load_base(said, build.compute(said))
    stages = Stages()
    made = build.material(said, base, step=stages)
    stages(0, 1, "laid out")
    feed, digest = build.feed_of(said, base, made), hashlib.sha256()
    assert isinstance(feed, FileFeed), "nothing is sampled"
    middle, same = feed.num_updates // 2, True
    stages(0, 1, "an epoch packed, half of it twice over some updates")
    again: FileFeed | None = None
    for number in range(feed.num_updates):
        if number == middle:
            another = build.feed_of(said, base, made)
            assert isinstance(another, FileFeed)
            another.load(feed.state())
            again = another
        names = [name for batch in feed.update() for name in batch.example_ids]
        if again is not None and number < middle + COMPARED:
            same &= names == [name for batch in again.update() for name in batch.example_ids]
        digest.update("\n".join(names).encode())
    stages.end()
    assert made.mixture is not None
    return {
        "rows": made.audit["rows"], "train": made.audit["splits"]["train"], "updates": feed.num_updates,
        "quotas": {part.name: part.quota for part in made.mixture.parts}, "resumed_the_same": same,
        "digest": digest.hexdigest()[:16], "stages": stages.found,
        "peak_mib": max(one["peak_mib"] for one in stages.found.values()),
        "seconds": sum(one["seconds"] for one in stages.found.values()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--weights", action="store_true", help="instead of a cap and a temperature")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(mixed(Path(args.side), args.model, args.rows[0], weights=args.weights)))
        return
    for num in args.rows:
        with tempfile.TemporaryDirectory() as name:
            stream = rows(num, "texts")
            for source, share in SHARES.items():
                with (Path(name) / f"{source}.jsonl").open("w") as file:
                    file.writelines(f"{next(stream)}\n" for _ in range(round(share * num)))
            command = [sys.executable, __file__, "--side", name, "--model", args.model, "--rows", str(num)]
            done = subprocess.run([*command, *(["--weights"] if args.weights else [])], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        told = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{num:,} rows: {told['peak_mib']:.0f} MiB, {told['seconds']:.0f} s", flush=True)
        for stage, one in told.pop("stages").items():
            print(f"    {one['peak_mib']:6.0f} MiB {one['seconds']:7.1f} s  {stage}", flush=True)
        print("   ", told, flush=True)


if __name__ == "__main__":
    main()
