"""Seconds of a whole command, from the start of its process to the saved adapter: `tunesmith train` beside `trl sft`.

    python bench/command.py [--examples 48] [--compile] [--precision bfloat16] [--against PYTHON] [--pairs 5]

Both learn the same rows once by LoRA r=16 on all linear layers, 16 rows an update, each pair of runs other rows, so
that nobody finds them tokenised. What a run of ours does beside learning counts: reading, audit, plan, and the adapter
opened by peft and compared; answers and losses on the way are off, as they are there. `--against PYTHON` names an
interpreter in whose environment TRL is installed (`make bench-peers` makes one), which runs packed and without gradient
checkpointing, its fastest setting that learns.
Any other process on the machine makes the figures worthless.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records, speed

NUM_OTHERS = 20  # rows of the test that a run wants; nobody asks them here
MEAN_TOKENS = 213  # of a made-up row: what TRL's packed rows are filled with


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(folder: Path, rows: Sequence[dict[str, Any]], others: Path, asked: argparse.Namespace) -> list[str]:
    said = {
        "adapt.method": "lora", "adapt.rank": 16, "train.epochs": 1, "train.lr": 2e-4, "export": "[adapter]",
        "train.update_tokens": speed.EXAMPLES_AN_UPDATE * MEAN_TOKENS, "train.compile": str(asked.compile).lower(),
        "precision": asked.precision, "data.dev_frac": 0, "train.watch": 0,
    }  # fmt: skip
    sets = [word for key, value in said.items() for word in ("--set", f"{key}={value}")]
    data = ["--data", str(write(folder / "rows.jsonl", rows)), "--test", str(others)]
    return [sys.executable, "-m", "tunesmith", "train", "--model", speed.MODEL, *data, *sets, "--out", f"{folder}/run"]


def trl(folder: Path, rows: Sequence[dict[str, Any]], asked: argparse.Namespace) -> list[str]:
    said = [{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in rows]
    write(folder / "trl" / "train.jsonl", said)
    packed = max(1, round(speed.EXAMPLES_AN_UPDATE * MEAN_TOKENS / speed.MAX_TOKENS))
    options = {
        "model_name_or_path": speed.model_folder(), "dataset_name": folder / "trl", "output_dir": folder / "trl_run",
        "num_train_epochs": 1, "learning_rate": 2e-4, "per_device_train_batch_size": 1, "use_cpu": True,
        "gradient_accumulation_steps": packed, "max_length": speed.MAX_TOKENS, "packing": True, "use_peft": True,
        "lora_r": 16, "lora_alpha": 32, "lora_target_modules": "all-linear", "gradient_checkpointing": False,
        "dtype": "float32", "report_to": "none", "bf16": asked.precision == "bfloat16", "dataloader_pin_memory": False,
    }  # fmt: skip
    command = [str(Path(asked.against).with_name("trl")), "sft"]
    return [*command, *(str(word) for key, value in options.items() for word in (f"--{key}", value))]


def seconds(command: Sequence[str], adapter: Path) -> float:
    settings = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode or not (adapter / "adapter_model.safetensors").is_file():
        raise SystemExit(f"{' '.join(command)} left no {adapter}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="TRL: by autocast")
    parser.add_argument("--against", help="an interpreter with TRL")
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    mine, theirs = [], []
    rows = speed.made_rows(asked.pairs * asked.examples + NUM_OTHERS)
    with tempfile.TemporaryDirectory() as name:
        others = write(Path(name) / "others.jsonl", rows[-NUM_OTHERS:])
        for pair in range(asked.pairs):
            some, folder = rows[pair * asked.examples :][: asked.examples], Path(name) / str(pair)
            mine.append(seconds(ours(folder, some, others, asked), folder / "run" / "adapter"))
            if asked.against:
                theirs.append(seconds(trl(folder, some, asked), folder / "trl_run"))
            print(pair, *(f"{side[-1]:.1f} s" for side in (mine, theirs) if side), flush=True)
    how = f"{'compiled' if asked.compile else 'eager'}, {asked.precision}"
    packages = {}
    if theirs:
        asks = [asked.against, "-c", "import trl; print(trl.__version__)"]
        packages = {"trl": subprocess.run(asks, capture_output=True, text=True, check=True).stdout.split()[-1]}
    records.keep(
        __file__,
        f"whole command, LoRA, {how}, {asked.examples} rows",
        {"examples": asked.examples, "compiled": asked.compile, "precision": asked.precision},
        {"trl sft, best": records.compared(mine, theirs, "s", less_is_better=True)} if theirs else {},
        packages=packages,
        sides={"tunesmith": mine, "trl": theirs},
    )


if __name__ == "__main__":
    main()
