"""What `tunesmith plan` says of memory against what runs take, appended to bench/results/plan_accuracy.jsonl.

    python bench/plan_accuracy.py [--only tiny] [--random 10 --seed 1] [--table]

Each case is planned in one process and run in another, whose peak is what the kernel says (VmHWM). It is run with as
little memory as the plan says it needs, so that freed memory goes back to the system: where there is plenty it is kept
for speed, and a run takes more than it needs. --random draws recipes that nobody looked at
when the constants were measured. --kept runs the cases with all memory, to see what keeping costs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "plan_accuracy.jsonl"
WORDS = (
    "order",
    "clips",
    "dog",
    "fox",
    "April",
    "where",
    "sold",
    "brown",
    "quick",
    "jumps",
    "over",
    "the",
    "moon",
    "and",
)
REAL = ("smollm2-135m-instruct", "gemma-3-270m")


def cases() -> Iterator[dict[str, Any]]:
    """Models x methods x contexts x precisions x checkpointing, each factor with each other at least once."""
    for model in ("tiny", *REAL):
        for method, words in itertools.product(("lora", "full", "last_k"), (40, 160, 640)):
            number = ("lora", "full", "last_k").index(method) + (40, 160, 640).index(words)
            precision = ("float32", "bfloat16")[number % 2]
            for again in ("off", "on") if words == 160 else (("off", "on")[number // 2 % 2],):
                yield {"model": model, "method": method, "words": words, "precision": precision, "checkpointing": again}


def drawn(num: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "model": rng.choice(("tiny", *REAL)), "method": rng.choice(("lora", "full", "last_k")),
            "words": rng.randrange(20, 700), "precision": rng.choice(("float32", "bfloat16")),
            "checkpointing": rng.choice(("off", "on")), "micro_tokens": rng.choice((512, 1024, 2048)),
            "rows": rng.choice((4, 16, 48)), "rank": rng.choice((4, 16, 64)), "last_k": rng.randrange(1, 4),
        }
        for _ in range(num)
    ]  # fmt: skip


def recipe_of(case: dict[str, Any], folder: Path) -> list[str]:
    """The words of a command line: two or three updates, a few answers written."""
    rng = random.Random(0)
    data = folder / "rows.jsonl"
    lines = [
        {
            "prompt": f"{' '.join(rng.choices(WORDS, k=case['words']))} {i}?",
            "completion": " ".join(rng.choices(WORDS, k=12)),
        }
        for i in range(case.get("num", 60))
    ]  # fmt: skip
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sets = {
        "adapt.method": case["method"], "adapt.rank": case.get("rank", 16), "adapt.last_k": case.get("last_k", 2),
        "precision": case["precision"], "train.checkpointing": case["checkpointing"],
        "train.micro_tokens": case.get("micro_tokens", "auto"), "train.max_updates": 2, "train.every_checkpoint": 1,
        "train.update_tokens": case.get("update_tokens", 4096), "train.watch": 0, "data.max_tokens": 2048,
        "data.test_frac": 0.25, "evals.max_cases": 12, "evals.max_dev_cases": 4, "evals.few_shot": 0,
        "evals.rows": case.get("rows", 48), "evals.max_new_tokens": 8, "evals.guards": "off",
    }  # fmt: skip
    model = str(tiny_model(folder)) if case["model"] == "tiny" else case["model"]
    return ["--model", model, "--data", str(data), *(w for k, v in sets.items() for w in ("--set", f"{k}={v}"))]


def tiny_model(folder: Path) -> Path:
    """Random weights in the shape of a small model: large enough that tensors outweigh libraries."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tunesmith.models.catalogue import locate

    out = folder / "tiny"
    if not out.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(locate(REAL[0]).folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(out)
        tokenizer.save_pretrained(out)
    return out


def measure(case: dict[str, Any], *, kept: bool = False) -> dict[str, Any]:
    """The row that is kept of a case."""
    with tempfile.TemporaryDirectory(prefix="plan_accuracy_") as name:
        folder = Path(name)
        words = recipe_of(case, folder)
        planned = json.loads(command(["-m", "tunesmith.cli.main", "plan", *words, "--json"], {}).splitlines()[-1])[
            "memory"
        ]
        above = max(planned["stages"].values())
        memory = {} if kept else {"TUNESMITH_MEMORY_GIB": str(1.001 * above)}
        (folder / "words.json").write_text(json.dumps(words))
        found = json.loads(command([str(Path(__file__).resolve()), "--run", str(folder)], memory).splitlines()[-1])
    return {
        "date": date.today().isoformat(), "machine": f"{platform.machine()}, {platform.libc_ver()[1]}", "case": case,
        "kept": kept, "predicted_gib": planned["peak_gib"], "predicted_above_gib": above,
        "stages_gib": planned["stages"], "measured_gib": found["peak_gib"], "there_gib": planned["there_gib"],
        "measured_stages_gib": found["stages"], "error": planned["peak_gib"] / found["peak_gib"] - 1,
    }  # fmt: skip


def command(words: list[str], more: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *words], env={**os.environ, **more}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout


def in_child(folder: Path) -> None:
    """The run, and the peak of each stage; printed as JSON."""
    from tunesmith.cli.main import app
    from tunesmith.folder import RunFolder, peak_gib

    stages: dict[str, float] = {}
    plain = RunFolder.stage

    @contextmanager
    def stage(self: RunFolder, name: str, budget_s: float | None = None) -> Iterator[None]:
        clear_peak()
        with plain(self, name, budget_s):
            yield
            stages[name] = peak_gib()

    RunFolder.stage = stage  # type: ignore[method-assign]
    words = json.loads((folder / "words.json").read_text())
    app(["run", *words, "--out", str(folder / "run"), "--json"], standalone_mode=False)
    print(json.dumps({"peak_gib": max(stages.values()), "stages": stages}))


def clear_peak() -> None:
    """Linux: VmHWM begins anew."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| case | predicted GiB | measured GiB | error | error above the loaded model |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        above = row["measured_gib"] - row["there_gib"]
        said = " ".join(str(v) for v in row["case"].values()) + (" kept" if row["kept"] else "")
        error = row["predicted_above_gib"] / above - 1 if above > 0 else float("nan")
        lines.append(
            f"| {said} | {row['predicted_gib']:.2f} | {row['measured_gib']:.2f} | {row['error']:+.1%} | {error:+.0%} |"
        )
    if rows:
        lines.append(f"\nlargest error: {max(abs(r['error']) for r in rows):.1%} in {len(rows)} cases")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases of this model")
    parser.add_argument("--random", type=int, default=0, help="so many recipes drawn at random instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", action="store_true", help="with all memory that is free")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        in_child(asked.run)
        return
    wanted = [] if asked.table else drawn(asked.random, asked.seed) if asked.random else list(cases())
    for case in wanted:
        if asked.only in (None, case["model"]):
            row = measure(case, kept=asked.kept)
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(table([row]).splitlines()[2], flush=True)
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    print(table(rows))


if __name__ == "__main__":
    main()
