"""Speed and memory of supervised training: tokens a second without padding, the first update left out.

    python bench/speed.py [--adapt lora|full] [--compile] [--precision bfloat16] [--examples 96] [--rows FILE.jsonl]
                           [--against PYTHON]

Alone it measures this side and appends a line to bench/results/speed.jsonl. `--against PYTHON` names an interpreter
in whose environment TRL is installed (`make bench-peers` makes one): both sides then run in turn, each in a process of
its own, `--pairs` times, and the line holds every figure, the medians and their ratio. Same rows, same template, same
tokens an update, same threads; TRL both with the system's allocator settings and with those that the session makes,
and the better of the two counts. TRL runs by its defaults for a CPU, or (`--preset best`, what is compared) packed and
without gradient checkpointing.

Rows are chats (`messages`) of at most MAX_TOKENS tokens; without --rows they are put together from the made-up shop,
with lengths like those of chat data: most short, a few long. Any other process on the machine makes the figures
worthless.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
NUM_HELD_OUT = 16  # the last rows: learned by neither side
EXAMPLES_AN_UPDATE = 16
MAX_TOKENS = 576  # of a row, for both sides: neither cuts any


def texts(seed: int) -> Callable[[float, int], str]:
    """Draws a text from the shop's messages, by its mean and its most words."""
    from tunesmith.data import shop

    messages = [row.prompt for row in shop.inbox(seed=7, num_messages=1000)]
    draw = random.Random(seed)

    def text(mean_words: float, most_words: int) -> str:
        words: list[str] = []
        want = min(most_words, max(8, round(mean_words * math.exp(draw.gauss(-0.18, 0.6)))))
        while len(words) < want:
            words += draw.choice(messages).split()
        return " ".join(words[:want])

    return text


def made_rows(num: int) -> list[dict[str, Any]]:
    """Chats of several messages of the shop each: about 150 tokens of prompt, 60 of reply, lognormal."""
    text = texts(7)
    return [
        {"messages": [{"role": "user", "content": text(105, 250)}, {"role": "assistant", "content": text(40, 80)}]}
        for _ in range(num)
    ]


def ours(rows: Path, adapt: str, num: int, compiled: bool, precision: str) -> dict[str, Any]:
    """One epoch over the first `num` rows through the session, as `tunesmith run` does it; the last rows are scored."""
    import torch

    from tunesmith.data import ingest
    from tunesmith.data.columns import Columns
    from tunesmith.data.feed import FileFeed, Laying
    from tunesmith.data.pack import pack
    from tunesmith.data.render import Renderer
    from tunesmith.engine.loop import State, train
    from tunesmith.engine.schedule import Schedule
    from tunesmith.engine.session import Session
    from tunesmith.engine.tenant import Spec
    from tunesmith.models.adapters import Adapt
    from tunesmith.models.load import load
    from tunesmith.objectives.sft import SFT

    base = load(MODEL, getattr(torch, precision), "cpu")
    read = ingest.read([rows], Columns())
    rendered = Renderer(base.tokenizer, MAX_TOKENS).records(read.examples)
    records, unused = rendered.records, [*map(str, read.rejected), *(why for _, why in rendered.dropped)]
    if unused:
        raise SystemExit(
            f"{rows}: {len(unused)} rows cannot be learned whole (the first: {unused[0]}), and each side would make "
            "something else of them. Leave them out"
        )
    if len(records) < num + NUM_HELD_OUT:
        raise SystemExit(
            f"{rows}: {len(records)} rows; wanted {num} to learn from and {NUM_HELD_OUT} others. Lower --examples"
        )
    learned, held_out = records[:num], records[-NUM_HELD_OUT:]
    tokens = sum(r.num_tokens for r in learned)
    feed = FileFeed(learned, round(EXAMPLES_AN_UPDATE * tokens / num), 2048, 1, 0, Laying(rope=base.rope))
    if feed.num_updates == 1:
        raise SystemExit(f"{num} examples make one update, and the first is left out. Raise --examples")
    session = Session(base, compiled=compiled)
    spec = Spec(Adapt(method=adapt))  # type: ignore[arg-type]
    session.create("speed", spec)
    lr = 2e-4 if adapt == "lora" else 1e-5
    state = State("speed", SFT(), Schedule("linear", 0.0), lr, feed.num_updates)
    marks = [time.perf_counter()]
    counts = [sum(records[i].num_tokens for i in feed.members(u)) for u in range(feed.num_updates)]
    train(session, state, feed, feed.num_updates, [lambda *_: marks.append(time.perf_counter())])
    seconds = [b - a for a, b in pairwise(marks)]
    facts = {
        "tokens_per_s": sum(counts[1:]) / sum(seconds[1:]),
        "first_update_s": seconds[0],
        "updates": len(seconds),
        "tokens": tokens,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    exact = Session(load(MODEL, torch.float32, "cpu"))  # TRL's weights are float32 too, and asked so
    exact.create("speed", spec)
    exact.load_state("speed", *session.save_state("speed", with_optimizer=False), insist=True)
    nats = torch.cat(exact.logprobs("speed", pack(held_out, 2048, base.rope))).double()
    return facts | {"held_out_loss": -float(nats.mean()), "held_out_tokens": len(nats)}


def child(command: list[str], rows: Path, *, tuned: bool = True) -> dict[str, Any]:
    """A measurement in a process of its own; the last line that it prints is the result. `tuned`: the allocator keeps
    what is freed, as the session's does."""
    settings = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if tuned:
        settings["GLIBC_TUNABLES"] = "glibc.malloc.mmap_threshold=2147483647:glibc.malloc.trim_threshold=2147483647"
    done = subprocess.run(
        [*command, "--rows", str(rows)], env={**os.environ, **settings}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median(side: list[dict[str, Any]], key: str) -> float:
    return statistics.median(r[key] for r in side)


def against(preset: str, mine: list[dict[str, Any]], *trl: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios of the pairs, against TRL with whichever allocator settings were faster."""
    asked = {r["held_out_tokens"] for side in (mine, *trl) for r in side}
    if len(asked) > 1:
        raise SystemExit(f"the sides were asked for different numbers of held-out tokens: {sorted(asked)}")
    best = max(trl, key=lambda side: median(side, "tokens_per_s"))

    def both(key: str) -> tuple[list[float], list[float]]:
        return [r[key] for r in mine], [r[key] for r in best]

    return {
        f"TRL, {preset}": records.compared(*both("tokens_per_s"), "tokens/s"),
        f"TRL, {preset}, peak memory": records.compared(*both("peak_gib"), "GiB", less_is_better=True),
        f"TRL, {preset}, held-out loss": records.compared(
            *both("held_out_loss"), "nats per token", less_is_better=True
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapt", choices=["lora", "full"], default="lora")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="TRL: by autocast")
    parser.add_argument("--examples", type=int, default=96)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--against", help="an interpreter with TRL")
    parser.add_argument("--preset", choices=["default", "best"], default="best", help="of TRL")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours(args.rows, args.adapt, args.examples, args.compile, args.precision)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = args.rows
        if rows is None:
            rows = Path(folder) / "rows.jsonl"
            rows.write_text("".join(json.dumps(r) + "\n" for r in made_rows(args.examples + NUM_HELD_OUT)))
        common = ["--adapt", args.adapt, "--examples", str(args.examples)]
        own = ["--precision", args.precision, *["--compile"] * args.compile]
        mine, plain, tuned = [], [], []
        for pair in range(args.pairs):
            mine.append(child([sys.executable, __file__, "--child", *common, *own], rows))
            if args.against:
                peer = [args.against, "-P", str(HERE / "peers" / "trl.py"), *common, "--preset", args.preset]
                peer += ["--max-tokens", str(MAX_TOKENS)]
                peer += ["--model", str(model_folder()), *["--bf16"] * (args.precision == "bfloat16")]
                plain.append(child(peer, rows, tuned=False))
                tuned.append(child(peer, rows))
            print(pair, *(f"{side[-1]['tokens_per_s']:.0f}" for side in (mine, plain, tuned) if side), flush=True)
    what = f"{'compiled' if args.compile else 'eager'}, {args.precision}"
    told = "made-up shop" if args.rows is None else args.rows.name
    records.keep(
        __file__,
        f"supervised, {'LoRA' if args.adapt == 'lora' else 'all weights'}, {what}, {args.examples} of {told}",
        {
            "adapt": args.adapt,
            "compiled": args.compile,
            "precision": args.precision,
            "examples": args.examples,
            "preset": args.preset,
        },
        against(args.preset, mine, plain, tuned) if tuned else {},
        packages=tuned[-1]["versions"] if tuned else {},
        sides={"tunesmith": mine, "trl": plain, "trl_allocator_tuned": tuned},
    )


def model_folder() -> Path:
    from tunesmith.models.catalogue import locate

    return locate(MODEL).folder


if __name__ == "__main__":
    main()
