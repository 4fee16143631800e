"""Speed of learning from pairs (DPO, LoRA of rank 16): seconds a pair, the first update left out.

    python bench/dpo.py [--compile] [--precision bfloat16] [--examples 24] [--rows FILE.jsonl] [--against PYTHON]

As bench/speed.py, whose rules hold here too. Rows have `prompt`, `chosen` and `rejected`, each a list of messages, as
TRL reads them; without --rows they are put together from the made-up shop: prompts of about 300 tokens, replies of
about 80. Our reference is computed once, before the first update, and its share of the time is counted in; TRL computes
it in each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records, speed

PAIRS_AN_UPDATE = 8
MAX_TOKENS = 1024  # of a prompt with one reply


def made_rows(num: int) -> list[dict[str, Any]]:
    text = speed.texts(11)
    return [
        {
            "prompt": [{"role": "user", "content": text(200, 400)}],
            "chosen": [{"role": "assistant", "content": text(55, 110)}],
            "rejected": [{"role": "assistant", "content": text(55, 110)}],
        }
        for _ in range(num)
    ]


def ours(rows: Path, num: int, compiled: bool, precision: str) -> dict[str, Any]:
    """One epoch over the rows through the session, as `tunesmith run` does it."""
    import torch

    from tunesmith.data import ingest
    from tunesmith.data.columns import Columns
    from tunesmith.data.feed import FileFeed
    from tunesmith.data.pack import pack
    from tunesmith.data.render import Renderer
    from tunesmith.engine.loop import State, train
    from tunesmith.engine.schedule import Schedule
    from tunesmith.engine.session import Session
    from tunesmith.engine.tenant import Spec
    from tunesmith.models.adapters import Adapt
    from tunesmith.models.load import load
    from tunesmith.objectives.preference import Preference, Preferring
    from tunesmith.preferences import sums_of

    base = load(speed.MODEL, getattr(torch, precision), "cpu")
    made = Renderer(base.tokenizer, MAX_TOKENS).records(ingest.read([rows], Columns()).examples)
    learned = made.records[:num]
    if len(learned) < num:
        raise SystemExit(f"{rows}: {len(learned)} pairs can be learned whole, wanted {num}. Lower --examples")
    tokens = sum(r.num_tokens for r in learned)
    feed = FileFeed(learned, round(PAIRS_AN_UPDATE * tokens / num), 2048, 1, 0, base.rope)
    session = Session(base, compiled=compiled)
    session.create("speed", Spec(Adapt(method="lora")))
    marks, reference = [time.perf_counter()], {}
    for forest in pack(learned, 2048, base.rope):
        sums = sums_of(forest, session.logprobs("speed", [forest])[0])
        reference |= {name: tuple(found[::2]) for name, found in sums.items()}
    reference_s = time.perf_counter() - marks[0]
    marks = [time.perf_counter()]
    state = State("speed", Preferring(Preference(), reference), Schedule("linear", 0.0), 1e-5, feed.num_updates)
    losses: list[float] = []

    def mark(update: int, facts: dict[str, float]) -> None:
        marks.append(time.perf_counter())
        losses.append(facts["loss"])

    counts = [len(feed.members(u)) for u in range(feed.num_updates)]
    train(session, state, feed, feed.num_updates, [mark])
    seconds = [b - a for a, b in pairwise(marks)]
    return {
        "pairs_per_s": 1 / (sum(seconds[1:]) / sum(counts[1:]) + reference_s / num),
        "first_update_s": seconds[0],
        "reference_s": reference_s,
        "losses": losses,
        "updates": len(seconds),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="TRL: by autocast")
    parser.add_argument("--examples", type=int, default=24)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--against", help="an interpreter with TRL")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(ours(args.rows, args.examples, args.compile, args.precision)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = args.rows
        if rows is None:
            rows = Path(folder) / "rows.jsonl"
            rows.write_text("".join(json.dumps(r) + "\n" for r in made_rows(args.examples)))
        common = ["--examples", str(args.examples)]
        own = ["--precision", args.precision, *["--compile"] * args.compile]
        mine, tuned = [], []
        for pair in range(args.pairs):
            mine.append(speed.child([sys.executable, __file__, "--child", *common, *own], rows))
            if args.against:
                peer = [args.against, "-P", str(speed.HERE / "peers" / "trl_dpo.py"), *common]
                peer += ["--max-tokens", str(MAX_TOKENS), "--model", str(speed.model_folder())]
                tuned.append(speed.child([*peer, *["--bf16"] * (args.precision == "bfloat16")], rows))
            print(pair, *(f"{side[-1]['pairs_per_s']:.3f}" for side in (mine, tuned) if side), flush=True)
    what = f"{'compiled' if args.compile else 'eager'}, {args.precision}"
    told = "made-up shop" if args.rows is None else args.rows.name
    sides = [[r["pairs_per_s"] for r in side] for side in (mine, tuned)]
    peaks = [[r["peak_gib"] for r in side] for side in (mine, tuned)]
    records.keep(
        __file__,
        f"DPO, LoRA, {what}, {args.examples} of {told}",
        {"compiled": args.compile, "precision": args.precision, "examples": args.examples},
        {
            "TRL, best": records.compared(*sides, "pairs/s"),
            "TRL, best, peak memory": records.compared(*peaks, "GiB", less_is_better=True),
        } if tuned else {},
        packages=tuned[-1]["versions"] if tuned else {},
        sides={"tunesmith": mine, "trl_allocator_tuned": tuned},
    )  # fmt: skip


if __name__ == "__main__":
    main()
