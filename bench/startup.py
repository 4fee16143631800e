"""Seconds until a command has answered, against its budget: `--help`, and `plan` the second time.

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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records
from bench.speed import MODEL, made_rows

HELP_S, PLAN_S = 0.5, 5.0
NUM_ROWS = 512


def seconds(command: list[str], times: int) -> list[float]:
    found = []
    for _ in range(times + 1):
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
        rows.write_text("".join(json.dumps(row) + "\n" for row in made_rows(NUM_ROWS)))
        of_help = seconds(["--help"], args.times)
        of_plan = seconds(["plan", "--model", MODEL, "--data", str(rows)], args.times)
    ratios = {
        f"budget of {budget:g} s, {name}": records.compared(found, [budget] * len(found), "s", less_is_better=True)
        for name, found, budget in (("tunesmith --help", of_help, HELP_S), ("tunesmith plan", of_plan, PLAN_S))
    }
    records.keep(__file__, "start-up", {"model": MODEL, "rows": NUM_ROWS}, ratios)


if __name__ == "__main__":
    main()
