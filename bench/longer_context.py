"""A longer context, tried from end to end: a small decoder is made with a context of 128 tokens, and tuned to 512.

    python bench/longer_context.py TEXT [--out FOLDER] [--only yarn]
    python bench/longer_context.py TEXT --model smollm2-135m-instruct     45 minutes on 2 cores

TEXT is a file of UTF-8, gzipped or not, of paragraphs. Both steps are `tunesmith run`: the first trains a Llama of 2
million random weights on pieces that fit its context, the second goes on from it with new angles on pieces of four
times the length. Held out is the end of the text, in pieces of both lengths: of each, bits per byte of tuned against
base, each with its own angles; the stage `context` reads the loss by position. Results are appended to
results/longer_context.jsonl. Passkeys are asked too; a model of this size finds none.

With --model a pre-trained one is stretched by half instead, by yarn, and tuned on short pieces with LoRA: what it finds
beyond its own context is looked at, and whether short pieces are read as well as before.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from bench.pretrain_t5 import tokenizer_of

from tunesmith.models.catalogue import fetch

OWN, LONGER, HELD_OUT = 128, 512, 0.1
# Angles, the lengths of the pieces that are learned from, and how many times the updates
JOBS = {method: (method, (LONGER,), 1) for method in ("linear", "ntk", "yarn", "llama3")} | {
    "yarn with short rows": ("yarn", (OWN, LONGER), 1),
    "yarn with short rows, four times as long": ("yarn", (OWN, LONGER), 4),
}
RESULTS = Path(__file__).parent / "results" / "longer_context.jsonl"
SHORT, BY_HALF = 512, 1.5  # of a pre-trained model: tokens of a piece, and the new context by the old
BUDGET_S = 700  # what each of the three models may read in long texts
QUIET = ["evals.guards=off", "evals.robustness=off", "evals.explain_cases=0", "evals.few_shot=0", "train.watch=0",
         "train.rehearsal=false", "task.name=pretrain", "adapt.method=full", "data.near_together=false",
         "data.columns.text=text"]  # fmt: skip


def pieces(words: Any, text: str, length: int) -> Iterator[str]:
    """Of nearly so many tokens, cut wherever that is."""
    tokens = words(text, add_special_tokens=False)["input_ids"]
    for start in range(0, len(tokens) - length, length):
        yield words.decode(tokens[start : start + length - 8])


def written(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tunesmith(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "tunesmith.cli.main", *words], check=True)


def settings(*said: str) -> list[str]:
    return [word for one in (*QUIET, *said) for word in ("--set", one)]


def small_decoder(words: Any, out: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        max_position_embeddings=OWN, pad_token_id=0, bos_token_id=None, eos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    words.save_pretrained(out)


def by_length(run: Path, test: Path) -> dict[str, dict[str, Any]]:
    """Bits per byte of base and tuned on the pieces of each length, and what was gained with its 95% interval: other
    draws of the pieces."""
    lengths = [json.loads(line)["length"] for line in test.read_text(encoding="utf-8").splitlines()]
    cases = pq.read_table(run / "scores" / "cases.parquet").to_pylist()
    found = {}
    for name in dict.fromkeys(lengths):
        mine = [c for c in cases if lengths[int(c["source"].rpartition(":")[2]) - 1] == name]
        base, tuned = (np.array([c[f"{side}_measured"][0] for c in mine]) / np.log(2) for side in ("base", "tuned"))
        size = np.array([len(c["reference"].encode()) for c in mine])
        draws = np.random.default_rng(0).integers(0, len(mine), (2000, len(mine)))
        gained = ((base - tuned)[draws].sum(1) / size[draws].sum(1)).tolist()
        found[name] = {
            "cases": len(mine), "base": base.sum() / size.sum(), "tuned": tuned.sum() / size.sum(),
            "gained": (base - tuned).sum() / size.sum(), "interval": np.quantile(gained, (0.025, 0.975)).tolist(),
        }  # fmt: skip
    return found


def row_of(run: Path, test: Path, name: str) -> dict[str, Any]:
    verdict, context, plan = (
        json.loads((run / name).read_text()) for name in ("verdict.json", "scores/context.json", "plan.json")
    )
    found, asked = context["passkey"]["found"], context["passkey"]["asked"]
    return {
        "date": date.today().isoformat(), "run": name, "updates": plan["updates"],
        "verdict": {k: verdict[k] for k in ("metric", "base", "tuned", "effect", "interval", "num_cases", "decision")},
        "by_length": by_length(run, test), "loss": context["loss"],
        "passkeys": {side: f"{sum(each)} of {len(each)}" for side, each in found.items()},
        "passkeys_by_length": {
            side: {n: f"{sum(here)} of {len(here)}" for n in context["passkey"]["lengths"]
                   if (here := [one for one, (length, _) in zip(each, asked) if length == n])}
            for side, each in found.items()
        },
    }  # fmt: skip


def of_pretrained(model: str, text: str, cut: int, out: Path) -> None:
    """One run, and its row of the results."""
    folder = fetch(model).folder
    words = transformers.AutoTokenizer.from_pretrained(folder)
    own = transformers.AutoConfig.from_pretrained(folder).max_position_embeddings
    held = [{"text": t, "length": "short"} for t in list(pieces(words, text[cut:], SHORT))[:60]]
    rows = [{"text": t, "length": "-"} for t in pieces(words, text[:cut], SHORT)]
    test, learned = written(out / "test.jsonl", held), written(out / "rows.jsonl", rows)
    name = f"{model} by half"
    tunesmith("run", "--model", model, "--data", str(learned), "--out", str(out / "run"),
              *settings(f"data.test=[{test}]", f"data.max_tokens={2 * SHORT}", "train.max_updates=16",
                        "train.update_tokens=2048", f"adapt.context={{tokens: {int(BY_HALF * own)}, method: yarn}}",
                        "adapt.method=lora", "precision=bfloat16", f"evals.guard_budget_s={BUDGET_S}"))  # fmt: skip
    keep(row_of(out / "run", test, name))


def keep(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as kept:
        kept.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, help="keep rows and runs here")
    parser.add_argument("--only", choices=list(JOBS))
    parser.add_argument("--model", help="stretch this one, by half")
    parser.add_argument("--updates", type=int, nargs=2, default=(600, 80), metavar=("OWN", "LONGER"))
    asked = parser.parse_args()
    if asked.text is None:
        parser.print_usage()  # `make bench` runs every script, and brings no text
        return
    raw = asked.text.read_bytes()
    text = (gzip.decompress(raw) if asked.text.suffix == ".gz" else raw).decode()
    cut = int((1 - HELD_OUT) * len(text))
    out = asked.out or Path(tempfile.mkdtemp(prefix="longer_context_"))
    out.mkdir(parents=True, exist_ok=True)
    if asked.model:
        of_pretrained(asked.model, text, cut, out)
        return
    words = tokenizer_of(text[:cut])
    small_decoder(words, out / "random")
    held = [{"text": t, "length": name} for name, n in (("short", OWN), ("long", LONGER))
            for t in list(pieces(words, text[cut:], n))[:60]]  # fmt: skip
    test = written(out / "test.jsonl", held)
    rows = {n: written(out / f"{n}.jsonl", [{"text": t, "length": "-"} for t in pieces(words, text[:cut], n)])
            for n in (OWN, LONGER)}  # fmt: skip
    short = written(out / "short.jsonl", [row for row in held if row["length"] == "short"])
    if not (out / "own" / "verdict.json").is_file():
        tunesmith("run", "--model", str(out / "random"), "--data", str(rows[OWN]), "--out", str(out / "own"),
                  *settings(f"data.test=[{short}]", f"data.max_tokens={OWN}", "train.epochs=40", "train.lr=2e-3",
                            f"train.max_updates={asked.updates[0]}", "train.update_tokens=2048"))  # fmt: skip
    for name in [asked.only] if asked.only else JOBS:
        method, lengths, times = JOBS[name]
        updates = times * asked.updates[1]
        folder = out / name.replace(" ", "_")
        data = [word for n in lengths for word in ("--data", str(rows[n]))]
        if not (folder / "verdict.json").is_file():
            tunesmith("run", "--model", str(out / "own" / "model"), *data, "--out", str(folder),
                      *settings(f"data.test=[{test}]", f"data.max_tokens={LONGER}", "train.epochs=10",
                                f"adapt.context={{tokens: {LONGER}, method: {method}}}", "train.lr=3e-4",
                                "train.update_tokens=2048", f"train.max_updates={updates}"))  # fmt: skip
        keep(row_of(folder, test, name))


if __name__ == "__main__":
    main()
