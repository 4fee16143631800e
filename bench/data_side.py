"""Rows to packed updates: against the tokenizer alone, from the cache, and how much memory and budget it takes.

    python bench/data_side.py [--rows 20000] [--pairs 5] [--many 100000 1000000] [--cpu]

Each side runs in a process of its own, in turn. `tokenizer`: the tokenizers library's encode_batch on all cores, on the
texts that we rendered, and nothing else. `ours`: the same rows rendered by the chat template, checked, tokenised,
written to the file that training reads, and packed into updates. `cached`: the same again, from the cache. Then
made-up short rows are packed, few and many, in processes whose memory the kernel counts. Any other process on the
machine makes the figures worthless; where there are such, `--cpu` counts the processor's seconds of all processes of a
side, and the job's name says so.
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
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records
from bench.speed import MAX_TOKENS, MODEL, made_rows, model_folder

UPDATE_TOKENS, MICRO_TOKENS = 4096, 2048
BATCH = 1000  # texts of one call of the tokenizer alone


def clock() -> float:
    """Seconds: of the processor, by this process and those that it has started, or of the wall."""
    if "TUNESMITH_CPU_TIME" not in os.environ:
        return time.perf_counter()
    used = [child.cpu_times() for child in psutil.Process().children()]
    return time.process_time() + sum(times.user + times.system for times in used)


def tokenizer_alone(texts: Path) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    rows = json.loads(texts.read_text())
    began = clock()
    tokens = 0
    for first in range(0, len(rows), BATCH):
        tokens += sum(len(e.ids) for e in tokenizer.encode_batch(rows[first : first + BATCH], add_special_tokens=False))
    return {"seconds": clock() - began, "tokens": tokens}


def renderer_of() -> Any:
    from transformers import AutoTokenizer

    from tunesmith.data.render import Renderer

    return Renderer(AutoTokenizer.from_pretrained(model_folder()), MAX_TOKENS)


def ours(rows: Path) -> dict[str, Any]:
    from tunesmith.data import ingest, kept_tokens
    from tunesmith.data.columns import Columns

    renderer, read = renderer_of(), ingest.read([rows], Columns())
    began = clock()
    rendered = kept_tokens.rendered(renderer, read.examples, read.examples, "", lambda done: None)
    rendered_s = clock() - began
    found = packed(rendered.records)
    return {"seconds": clock() - began, "rendered_s": rendered_s, **found}


def packed(rows: Any) -> dict[str, Any]:
    """Every update of an epoch."""
    from tunesmith.data.feed import FileFeed

    feed, began = FileFeed(rows, UPDATE_TOKENS, MICRO_TOKENS, 1, 0), clock()
    tokens = forests = 0
    for _ in range(feed.num_updates):
        batches = feed.update()
        tokens, forests = tokens + sum(b.num_tokens for b in batches), forests + len(batches)
    return {"packed_s": clock() - began, "tokens": tokens, "forests": forests}


def waste(rows: Path) -> dict[str, Any]:
    """Of a token budget, the share that no token fills, when all rows are packed at once; padding there is none."""
    from tunesmith.data import ingest
    from tunesmith.data.columns import Columns
    from tunesmith.data.pack import pack

    rendered = list(renderer_of().records(ingest.read([rows], Columns()).examples).records)
    found = {}
    for budget in (MICRO_TOKENS, 4096, 8192):
        began = clock()
        forests = pack(rendered, budget, share_prefix=False)
        used = sum(f.num_tokens for f in forests)
        assert used == sum(r.num_tokens for r in rendered), "a token was lost, or added"
        found[str(budget)] = {
            "unfilled_frac": 1 - used / (budget * len(forests)), "seconds": clock() - began,
        }  # fmt: skip
    return found


def memory(num: int) -> dict[str, Any]:
    """Short rows as they stand in the file, packed update by update."""
    import numpy as np

    from tunesmith.data.records import Records
    from tunesmith.types import Record, Segment

    rng, rows = np.random.default_rng(0), Records()
    began = clock()
    for i in range(num):
        length = int(rng.integers(8, 60))
        weights = np.ones(length, np.float32)
        weights[: length // 2] = 0
        rows.append(Record(f"{i:020d}-1", (Segment(rng.integers(0, 49152, length), weights),)))
    made_s = clock() - began
    found = packed(rows)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"rows": num, "made_s": made_s, "peak_mib": int(status["VmHWM"].split()[0]) / 1024, **found}


def texts_of(rows: list[dict[str, Any]], renderer: Any) -> list[str]:
    """As the template writes them: what both sides tokenise."""
    from tunesmith.types import Message

    turns = ([Message(m["role"], m["content"]) for m in row["messages"]] for row in rows)
    return [renderer._chat.render(messages, is_prompt=False) for messages in turns]


def child(side: str, argument: object, cache: Path, *, on_all_cores: bool = False) -> dict[str, Any]:
    settings = {"TOKENIZERS_PARALLELISM": str(on_all_cores).lower(), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, str(argument)], capture_output=True, text=True,
        env={**os.environ, **settings, "TUNESMITH_KEPT": str(cache)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--many", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument(
        "--cpu", action="store_true", help="seconds of the processor, where other work is on the machine"
    )
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cpu:
        os.environ["TUNESMITH_CPU_TIME"] = "1"
    if args.side:
        sides: dict[str, Callable[[str], dict[str, Any]]] = {
            "tokenizer": lambda path: tokenizer_alone(Path(path)), "ours": lambda path: ours(Path(path)),
            "waste": lambda path: waste(Path(path)), "memory": lambda num: memory(int(num)),
        }  # fmt: skip
        if "TUNESMITH_KEPT" in os.environ:
            from tunesmith.data import kept_tokens, render

            if "TUNESMITH_CPU_TIME" in os.environ:  # what a child's child used could not be counted
                render.cores = lambda: 1
            kept_tokens.place = lambda: Path(os.environ["TUNESMITH_KEPT"])
        print(json.dumps(sides[args.side[0]](args.side[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, texts = Path(folder) / "rows.jsonl", Path(folder) / "texts.json"
        chats = made_rows(args.rows)
        rows.write_text("".join(json.dumps(row) + "\n" for row in chats))
        texts.write_text(json.dumps(texts_of(chats, renderer_of())))
        found: dict[str, list[dict[str, Any]]] = {"tokenizer": [], "ours": [], "cached": []}
        for pair in range(args.pairs):
            cache = Path(folder) / f"cache_{pair}"
            found["tokenizer"].append(child("tokenizer", texts, cache, on_all_cores=True))
            found["ours"].append(child("ours", rows, cache))
            found["cached"].append(child("ours", rows, cache))
            print(pair, *(f"{side} {results[-1]['seconds']:.2f} s" for side, results in found.items()), flush=True)
        seconds = {side: [r["seconds"] for r in results] for side, results in found.items()}
        unfilled = child("waste", rows, Path(folder))
        many = [child("memory", num, Path(folder)) for num in args.many]
    for told in many:
        print(f"{told['rows']:,} rows: {told['peak_mib']:.0f} MiB, packed in {told['packed_s']:.1f} s")
    records.keep(
        __file__,
        f"rows to packed updates, {args.rows:,} chats{', CPU time' if args.cpu else ''}",
        {"model": MODEL, "update_tokens": UPDATE_TOKENS, "micro_tokens": MICRO_TOKENS},
        {
            "the tokenizer alone": records.compared(seconds["ours"], seconds["tokenizer"], "s", less_is_better=True),
            "the tokenizer alone, from the cache": records.compared(
                seconds["cached"], seconds["tokenizer"], "s", less_is_better=True
            ),
        },
        stages={side: results[-1] for side, results in found.items()},
        unfilled=unfilled,
        memory=many,
    )


if __name__ == "__main__":
    main()
