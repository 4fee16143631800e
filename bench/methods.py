"""Speed of learning from pairs (DPO) and from rewards (GRPO), LoRA of rank 16, the first update left out.

    python bench/methods.py --job dpo|grpo [--compile] [--precision bfloat16] [--updates 3] [--against PYTHON]

As bench/speed.py, whose rules hold here too; rows are put together from the made-up shop. **dpo**: 8 pairs an update,
prompts of about 300 tokens, replies of about 80; our reference is computed once, before the first update, and its share
of the time is counted in; TRL computes it in each step. **grpo**: 2 prompts of about 150 tokens an update, 8 replies of
64 tokens each, sampled, graded (the share of e among the letters) and learned from without a reference, on both sides.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records, speed

MAX_TOKENS = 1024  # of a prompt with one reply
AN_UPDATE = {"dpo": 8, "grpo": 2}  # rows
GROUP, NEW_TOKENS = 8, 64
SEED = 11


def made_rows(job: str, num: int) -> list[dict[str, Any]]:
    text = speed.texts(SEED)

    def said(role: str, mean_words: float, most_words: int) -> list[dict[str, str]]:
        return [{"role": role, "content": text(mean_words, most_words)}]

    if job == "grpo":
        return [{"prompt": said("user", 105, 250)} for _ in range(num)]
    return [
        {"prompt": said("user", 200, 400), "chosen": said("assistant", 55, 110), "rejected": said("assistant", 55, 110)}
        for _ in range(num)
    ]


def session_of(compiled: bool, precision: str) -> Any:
    import torch

    from tunesmith.engine.session import Session
    from tunesmith.engine.tenant import Spec
    from tunesmith.models.adapters import Adapt
    from tunesmith.models.load import load

    session = Session(load(speed.MODEL, getattr(torch, precision), "cpu"), compiled=compiled)
    session.create("speed", Spec(Adapt(method="lora")))
    return session


def dpo(session: Any, rows: Path, updates: int) -> tuple[Any, Any, float]:
    """(feed, objective, seconds of the reference a row)"""
    from tunesmith.data import ingest
    from tunesmith.data.columns import Columns
    from tunesmith.data.feed import FileFeed, Laying
    from tunesmith.data.pack import pack
    from tunesmith.data.render import Renderer
    from tunesmith.objectives.preference import Preference, Preferring
    from tunesmith.preferences import sums_of

    base = session.base
    records_ = Renderer(base.tokenizer, MAX_TOKENS).records(ingest.read([rows], Columns()).examples).records
    tokens = sum(r.num_tokens for r in records_)
    feed = FileFeed(records_, round(tokens / updates), 2048, 1, 0, Laying(rope=base.rope))
    began = time.perf_counter()
    reference: dict[str, Any] = {}
    for forest in pack(records_, 2048, base.rope):
        sums = sums_of(forest, session.logprobs("speed", [forest])[0])
        reference |= {name: tuple(found[::2]) for name, found in sums.items()}
    each_s = (time.perf_counter() - began) / len(records_)
    return feed, Preferring(Preference(), reference), each_s


def grpo(session: Any, rows: Path, updates: int) -> tuple[Any, Any, float]:
    from tunesmith.data.render import Renderer
    from tunesmith.objectives.policy import Policy, Reinforcing
    from tunesmith.rollouts.draws import Draws, Prompts
    from tunesmith.rollouts.feed import Actor, RolloutFeed
    from tunesmith.types import Attempt, Example, Grade, Message, Task

    renderer = Renderer(session.base.tokenizer, MAX_TOKENS)
    said = [json.loads(line)["prompt"] for line in rows.read_text().splitlines()]
    examples = [Example(str(n), tuple(Message(**m) for m in p), Task({})) for n, p in enumerate(said)]
    asked = Policy(group_size=GROUP, prompts=AN_UPDATE["grpo"], max_new_tokens=NEW_TOKENS, kl=0.0)
    stops: tuple[int, ...] = ()  # all replies are as long on both sides

    def reward(attempts: Sequence[Attempt]) -> list[Grade]:
        return [Grade(a.text.count("e") / max(1, len(a.text))) for a in attempts]

    prompts = Prompts(examples, [renderer.prompt(e.prompt) for e in examples], stops, renderer.text)
    feed = RolloutFeed(Draws(prompts, asked, 1, SEED), Actor(session, "speed"), reward, Path(tempfile.mkdtemp()))
    return feed, Reinforcing(asked), 0.0


def ours(job: str, rows: Path, updates: int, compiled: bool, precision: str) -> dict[str, Any]:
    """One epoch over the rows through the session, as `tunesmith run` does it."""
    from tunesmith.engine.loop import State, train
    from tunesmith.engine.schedule import Schedule

    session = session_of(compiled, precision)
    make: Callable[..., tuple[Any, Any, float]] = {"dpo": dpo, "grpo": grpo}[job]
    feed, objective, each_s = make(session, rows, updates)
    marks, losses = [time.perf_counter()], []

    def mark(update: int, facts: dict[str, float]) -> None:
        marks.append(time.perf_counter())
        losses.append(facts["loss"])

    train(session, State("speed", objective, Schedule("linear", 0.0), 1e-5, updates), feed, updates, [mark])
    seconds = [b - a for a, b in pairwise(marks)]
    return {
        "update_s": sum(seconds[1:]) / len(seconds[1:]) + each_s * AN_UPDATE[job],
        "first_update_s": seconds[0],
        "losses": losses,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=AN_UPDATE, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--against", help="an interpreter with TRL")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.updates < 2:
        parser.error("--updates: the first is left out; wanted 2 or more")
    if asked.child:
        print(json.dumps(ours(asked.job, asked.rows, asked.updates, asked.compile, asked.precision)))
        return
    mine, tuned = [], []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        some = made_rows(asked.job, AN_UPDATE[asked.job] * asked.updates)
        rows.write_text("".join(json.dumps(r) + "\n" for r in some))
        common = ["--job", asked.job, "--updates", str(asked.updates)]
        own = ["--precision", asked.precision, *["--compile"] * asked.compile]
        peer = ["-P", str(speed.HERE / "peers" / "trl_methods.py"), *common, "--max-tokens", str(MAX_TOKENS)]
        peer += ["--model", str(speed.model_folder()), *["--bf16"] * (asked.precision == "bfloat16")]
        for pair in range(asked.pairs):
            mine.append(speed.child([sys.executable, __file__, "--child", *common, *own], rows))
            if asked.against:
                tuned.append(speed.child([asked.against, *peer], rows))
            print(pair, *(f"{side[-1]['update_s']:.2f} s" for side in (mine, tuned) if side), flush=True)

    def ratio(key: str, unit: str) -> dict[str, Any]:
        ours, theirs = ([r[key] for r in side] for side in (mine, tuned))
        return records.compared(ours, theirs, unit, less_is_better=True)

    how = f"{'compiled' if asked.compile else 'eager'}, {asked.precision}"
    records.keep(
        __file__,
        f"{asked.job.upper()}, LoRA, {how}, {AN_UPDATE[asked.job]} rows an update",
        {"job": asked.job, "compiled": asked.compile, "precision": asked.precision, "updates": asked.updates},
        {"TRL, best": ratio("update_s", "s an update"), "TRL, best, peak memory": ratio("peak_gib", "GiB")}
        if tuned
        else {},
        packages=tuned[-1]["versions"] if tuned else {},
        sides={"tunesmith": mine, "trl_allocator_tuned": tuned},
    )


if __name__ == "__main__":
    main()
