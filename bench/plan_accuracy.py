"""What `tunesmith plan` says of memory and time against what runs take, appended to bench/results/plan_accuracy.jsonl.

    python bench/plan_accuracy.py [--only tiny] [--random 10 --seed 1]   memory, whatever else the machine does
    python bench/plan_accuracy.py --time                                 time too: on a machine that does nothing else
    python bench/plan_accuracy.py --short                                the rehearsal's share of a short run
    python bench/plan_accuracy.py --table                                what was measured; measures nothing

Each case is planned in one process and run in another, forked from one that has imported what `plan` imports. A run's
peak is what the kernel says (VmHWM). It has as little memory as the plan says it needs: where there is plenty, freed
memory is kept for speed without a limit, and a run takes more than it needs. Peak and time are held against what the
run itself, so limited, predicted before its first update. --random draws recipes that nobody looked at when the
constants were measured. --kept gives the runs all memory, --tight the least, where all that is freed goes back.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import date
from functools import partial
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
METHODS, CONTEXTS = ("lora", "last_k", "full"), (40, 160, 640)
REGULARISED: dict[str, dict[str, Any]] = {
    "none": {}, "mixout": {"regularise.mixout": 0.3}, "l2sp": {"regularise.l2sp": 0.01}, "kl": {"regularise.kl": 0.1},
    "ema": {"train.average.ema": 0.9},
}  # fmt: skip


def cases() -> list[dict[str, Any]]:
    """Models x methods x contexts, with precision and checkpointing so that each goes with each other factor. All
    weights of the larger model would take more than 8 GiB. Real ones in bfloat16 on few tokens only: a processor
    without instructions for it learns 20 times slower."""
    found = []
    for model in ("tiny", *REAL):
        for method, words in itertools.product(METHODS if model != REAL[1] else METHODS[:2], CONTEXTS):
            number = METHODS.index(method) + CONTEXTS.index(words)
            is_half = words == CONTEXTS[0] and method != "last_k" if model in REAL else number % 2
            found.append({
                "model": model, "method": method, "words": words, "precision": ("float32", "bfloat16")[is_half],
                "checkpointing": ("off", "on")[(number // 2 + REAL.index(model) if model in REAL else number // 2) % 2],
            })  # fmt: skip
    return found


def drawn(num: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    found = []
    for _ in range(num):
        model, precision = rng.choice(("tiny", *REAL)), rng.choice(("float32", "bfloat16"))
        is_slow = model in REAL and precision == "bfloat16"
        found.append({
            "model": model, "method": rng.choice(METHODS[:2] if model == REAL[1] else METHODS),
            "words": rng.randrange(20, 60 if is_slow else 700), "precision": precision,
            "checkpointing": rng.choice(("off", "on")), "micro_tokens": rng.choice((512, 1024, 2048)),
            "rows": rng.choice((2, 4, 16)), "rank": rng.choice((4, 16, 64)), "last_k": rng.randrange(1, 4),
            "regularise": rng.choice(("none", "mixout", "l2sp", "kl", "ema")),
        })  # fmt: skip
    return found


def recipe_of(case: dict[str, Any], folder: Path) -> list[str]:
    """The words of a command line: two updates, a few answers written. Of the large models, as little as shows all."""
    rng = random.Random(0)
    data, is_tiny = folder / "rows.jsonl", case["model"] == "tiny"
    is_slow = not is_tiny and case["precision"] == "bfloat16"
    lines = [
        {
            "prompt": f"{' '.join(rng.choices(WORDS, k=case['words']))} {i}?",
            "completion": " ".join(rng.choices(WORDS, k=12)),
        }
        for i in range(case.get("num", 60))
    ]  # fmt: skip
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sets = {
        "adapt.method": case["method"],
        **({"adapt.rank": case.get("rank", 16)} if case["method"] == "lora" else {}),
        **({"adapt.last_k": case.get("last_k", 2)} if case["method"] == "last_k" else {}),
        "precision": case["precision"], "train.checkpointing": case["checkpointing"],
        "train.micro_tokens": case.get("micro_tokens", 2048 if is_tiny else 512), "train.max_updates": 2,
        "train.every_checkpoint": 1, "train.watch": 0,
        "train.update_tokens": 4096 if is_tiny else 300 if is_slow else 900,
        "train.rehearsal": str(is_tiny).lower(), "data.max_tokens": 2048, "data.test_frac": 0.25,
        "data.dev_frac": 0.15, "evals.max_cases": 12 if is_tiny else 4, "evals.max_dev_cases": 4 if is_tiny else 2,
        "evals.few_shot": 0, "evals.rows": case.get("rows", 48), "evals.max_new_tokens": 8, "evals.guards": "off",
        "evals.robustness": "quick" if is_tiny and case["words"] == CONTEXTS[0] else "off",
        "evals.explain_cases": int(is_tiny and case["words"] == CONTEXTS[0]),
        **REGULARISED[case.get("regularise", "none")],
    }  # fmt: skip
    model = str(tiny_model(folder)) if is_tiny else case["model"]
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


def measure(case: dict[str, Any], *, kept: bool, is_tight: bool, is_idle: bool) -> dict[str, Any]:
    """The row that is kept of a case."""
    with tempfile.TemporaryDirectory(prefix="plan_accuracy_") as name:
        folder = Path(name)
        planned = forked(plan_it, case, folder)
        limit = 1.001 * (planned["least_gib"] if is_tight else max(planned["stages"].values()))
        found = forked(run_it, case, folder, {} if kept else {"TUNESMITH_MEMORY_GIB": str(limit)})
    planned, peak = found["memory"], found["peak_gib"]
    above = max(planned["stages"].values())
    return {
        **about(case), "kept": kept, "freed": planned["freed"], "what": "time" if is_idle else "memory",
        "predicted_gib": planned["peak_gib"], "predicted_above_gib": above, "stages_gib": planned["stages"],
        "measured_gib": peak, "there_gib": planned["there_gib"], "measured_stages_gib": found["stages_gib"],
        "error": planned["peak_gib"] / peak - 1, **seconds_of(found),
    }  # fmt: skip


def measure_short() -> dict[str, Any]:
    """The quickstart's run, with its rehearsal."""
    with tempfile.TemporaryDirectory(prefix="plan_accuracy_") as name:
        found = forked(short_run, {}, Path(name))
    return {**about({"model": REAL[0], "what": "quickstart"}), "what": "short", **seconds_of(found)}


def about(case: dict[str, Any]) -> dict[str, Any]:
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    machine = f"{platform.machine()}, {platform.libc_ver()[1]}, {threads} threads, load {os.getloadavg()[0]:.1f}"
    return {"date": date.today().isoformat(), "machine": machine, "case": case}


def seconds_of(found: dict[str, Any]) -> dict[str, Any]:
    """Of stages and of the whole run, but for `prepare`, most of which is over when the plan is made."""
    predicted, measured = found["predicted_s"], found["measured_s"]
    totals = [sum(s for name, s in seconds.items() if name != "prepare") for seconds in (predicted, measured)]
    return {
        "predicted_s": predicted, "measured_s": measured, "tried_s": found["tried_s"],
        "time_error": totals[0] / max(totals[1], 1e-9) - 1,
    }  # fmt: skip


def forked(work: Any, case: dict[str, Any], folder: Path, more: dict[str, str] | None = None) -> dict[str, Any]:
    """What `work(case, folder)` gives in a process of its own."""
    out = folder / f"{work.__name__}.json"

    def child() -> None:
        os.environ.update(more or {})
        with (folder / "said.txt").open("w") as said, redirect_stdout(said), redirect_stderr(said):
            out.write_text(json.dumps(work(case, folder)))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    if process.exitcode or not out.is_file():
        raise RuntimeError(f"{case}\n{(folder / 'said.txt').read_text()[-3000:]}")
    return json.loads(out.read_text())


def plan_it(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The plan's memory."""
    from tunesmith import build, fitted
    from tunesmith.recipe import override, read

    _, model, _, data, *sets = recipe_of(case, folder)
    said = {"model": model, "data.train": [data], **dict(override(word) for word in sets[1::2])}
    recipe, _ = read(None, said)
    where = build.compute(recipe)
    base = build.load_base(recipe, where)
    made = build.material(recipe, base)
    found = fitted.fit_or_halve(recipe, base, made, where)[2]
    facts, asking = found.facts(), fitted.asking_bytes(found.recipe, base, made)
    assert facts is not None, "the model cannot be traced"
    return {**facts, "least_gib": fitted.footprint(found.recipe, base, made, found.feed, asking).above_gib}


def run_it(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The run, its plan, and the peak and the seconds of each stage."""
    words = ["run", *recipe_of(case, folder), "--out", str(folder / "run"), "--json"]
    return watched(words, folder / "run")


def short_run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    import tunesmith.quickstart

    plain = tunesmith.quickstart.settings

    def settings(data: Path) -> dict[str, Any]:
        found = plain(data)
        return {**found, "train": {**found["train"], "rehearsal": True}}

    tunesmith.quickstart.settings = settings
    return watched(["quickstart", "--out", str(folder / "run"), "--json"], folder / "run")


def watched(words: list[str], out: Path) -> dict[str, Any]:
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
    app(words, standalone_mode=False)
    planned, cost = (json.loads((out / name).read_text()) for name in ("plan.json", "cost.json"))
    return {
        "peak_gib": max(stages.values()), "stages_gib": stages, "memory": planned["memory"],
        "predicted_s": planned["seconds"]["stages"],
        "tried_s": planned["speeds"]["took_s"], "measured_s": {s["name"]: s["seconds"] for s in cost["stages"]},
    }  # fmt: skip


def clear_peak() -> None:
    """Linux: VmHWM begins anew."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def table(rows: list[dict[str, Any]]) -> str:
    """The newest row of each case. Rows of before seconds were kept have other fields, and are history."""
    rows = list({json.dumps([r["case"], r.get("kept"), r["what"], r.get("drawn")]): r for r in rows}.values())
    of_memory = [r for r in rows if "measured_stages_gib" in r and r["what"] != "short"]
    matrix, chance = (
        [r for r in of_memory if (r.get("drawn", False) is not False) == is_drawn] for is_drawn in (False, True)
    )
    of_time = [r for r in rows if r["what"] == "time"]
    shares = [share_of(r) for r in rows if r["what"] == "short"]
    parts = (memory_table(matrix), memory_table(chance), time_table(of_time), *shares)
    return "\n\n".join(filter(None, parts))


def memory_table(rows: list[dict[str, Any]]) -> str:
    lines = ["| case | predicted GiB | measured GiB | error | of what is above the loaded model |", "| --- " * 5 + "|"]
    for row in rows:
        above = row["measured_gib"] - row["there_gib"]
        said = words_of(row["case"]) + (" kept" if row["kept"] else "")
        error = row["predicted_above_gib"] / above - 1 if above > 0 else float("nan")
        lines.append(
            f"| {said} | {row['predicted_gib']:.2f} | {row['measured_gib']:.2f} | {row['error']:+.1%} | {error:+.0%} |"
        )
    return with_largest(lines, [r["error"] for r in rows])


def time_table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(n for r in rows for n in r["measured_s"] if n != "prepare"))
    lines = [f"| case | {' | '.join(names)} | all, s | error |", "| --- " * (len(names) + 3) + "|"]
    for row in rows:
        pairs = [(row["predicted_s"].get(n, 0.0), row["measured_s"].get(n, 0.0)) for n in names]
        cells = [f"{p:.1f} / {m:.1f}" for p, m in (*pairs, tuple(map(sum, zip(*pairs))))]
        lines.append(f"| {words_of(row['case'])} | {' | '.join(cells)} | {row['time_error']:+.0%} |")
    return with_largest(lines, [r["time_error"] for r in rows])


def with_largest(lines: list[str], errors: list[float]) -> str:
    return "\n".join([*lines, f"\nlargest error: {max(map(abs, errors)):.1%} in {len(errors)} cases"]) if errors else ""


def share_of(row: dict[str, Any]) -> str:
    took, total = row["measured_s"]["rehearsal"], sum(row["measured_s"].values())
    both = took + row["tried_s"]
    return (
        f"rehearsal of the quickstart: {took:.1f} s of {total:.0f} ({took / total:.1%}); with what was timed for the "
        f"plan {both:.1f} s ({both / total:.1%})"
    )


def words_of(case: dict[str, Any]) -> str:
    return " ".join(str(v) for v in case.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases of this model")
    parser.add_argument("--random", type=int, default=0, help="so many recipes drawn at random instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", action="store_true", help="with all memory that is free")
    parser.add_argument("--tight", action="store_true", help="with the least memory that a run can do with")
    parser.add_argument("--time", action="store_true", help="the cases of time")
    parser.add_argument("--short", action="store_true", help="the rehearsal's share of the quickstart")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    asked = parser.parse_args()
    if asked.table:
        rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
        print(table(rows))
        return
    for name in ("cli.main", "build", "fitted", "plan", "speeds"):  # what `plan` imports, once for all
        importlib.import_module(f"tunesmith.{name}")
    wanted = drawn(asked.random, asked.seed) if asked.random else cases()
    failed = 0
    for case in [{"model": REAL[0]}] if asked.short else wanted:
        if asked.only in (None, case["model"]):
            try:
                one = partial(measure, kept=asked.kept, is_tight=asked.tight, is_idle=asked.time)
                row = measure_short() if asked.short else one(case)
            except RuntimeError as error:
                failed += 1
                print(f"FAILED: {error}", flush=True)
                continue
            if asked.random:
                row["drawn"] = asked.seed
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(table([row]), flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
