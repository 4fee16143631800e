"""Seconds until a command has answered, against its budget: `--help`, a plan of turned rows, and the same plan again.

    python bench/startup.py [--times 7]

Each command is a process of its own; the first of each is not counted, since it fills the caches (compiled Python, the
model's file, and for `plan` what tunesmith keeps). Any other process on the machine makes the figures worthless.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records
from bench.speed import MODEL, made_rows

HELP_S, PLAN_S = 0.5, 5.0
NUM_ROWS = 512


def seconds(command: list[str], times: int, before: Callable[[], object] = lambda: None) -> list[float]:
    found = []
    for _ in range(times + 1):
        before()
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tunesmith", *command], capture_output=True, text=True, env=dict(os.environ)
        )
        found.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    print(f"{' '.join(command)}: {', '.join(f'{s:.2f}' for s in found)} s (the first is not counted)", flush=True)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        lines = [json.dumps(row) + "\n" for row in made_rows(NUM_ROWS)]

        def turn() -> None:
            lines.append(lines.pop(0))
            rows.write_text("".join(lines))

        plan = ["plan", "--model", MODEL, "--data", str(rows)]
        found = {
            "tunesmith --help": (HELP_S, seconds(["--help"], args.times)),
            "tunesmith plan": (PLAN_S, seconds(plan, min(3, args.times), turn)),
            "the same plan again": (PLAN_S, seconds(plan, args.times)),
        }
    ratios = {
        f"budget of {budget:g} s, {name}": records.compared(took, [budget] * len(took), "s", less_is_better=True)
        for name, (budget, took) in found.items()
    }
    records.keep(__file__, "start-up", {"model": MODEL, "rows": NUM_ROWS}, ratios)


if __name__ == "__main__":
    main()
