"""Several processes on this machine: seconds of an update, memory of each, and bytes between them, for 1, 2, 4 ranks.

Bytes are those of the loopback device, read before and after: what is really sent, the leader's words included. They
are compared with what a ring of n ranks has to send: the sum of all gradients once, or, where weights are spread, all
weights twice and the gradient once for each micro-batch. Memory is that of the first rank and of the largest of the
others, above what the process had with its libraries warm: held between two updates, and at most within one. On one
processor ranks share its cores, so that time says what several processes cost, and nothing of what GPUs would gain.

    python bench/scale.py
"""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing as mp
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from bench import records
from bench.frozen_depth import base

from tunesmith.crew import forget_whole
from tunesmith.data.pack import forest
from tunesmith.engine.memory import give_back_freed_memory
from tunesmith.engine.ranks import ALONE, Group, Ranks, obey
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.update import update
from tunesmith.folder import peak_gib
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Record, Segment


@dataclass(frozen=True)
class Way:
    adapt: Adapt
    is_sharded: bool = False


WAYS = {
    "LoRA": Way(Adapt("lora", rank=16)),
    "all weights": Way(Adapt("full")),
    "LoRA, spread": Way(Adapt("lora", rank=16), is_sharded=True),
    "all weights, spread": Way(Adapt("full"), is_sharded=True),
}
SIZES, REPEATS, FORESTS, TOKENS = (1, 2, 4), 3, 8, 256
PATIENCE_S, MIB = 300, 2**20


def forests() -> list[Forest]:
    """Of unequal length, as a feed gives them."""
    rng = np.random.default_rng(0)
    sizes = [int(n) for n in np.linspace(0.4 * TOKENS, TOKENS, FORESTS)]
    made = [
        Segment(rng.integers(3, 500, n).astype(np.int64), np.r_[0, np.ones(n - 1)].astype(np.float32)) for n in sizes
    ]
    return [forest([Record(f"e{i}", (segment,))]) for i, segment in enumerate(made)]


def sent_bytes() -> int:
    """By the loopback device, of all processes of this machine."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    return 0


def resident_mib() -> float:
    gc.collect()
    give_back_freed_memory()
    return psutil.Process().memory_info().rss / MIB


def foretold_mib(way: Way, size: int, weights: int, trained: int, rounds: int) -> dict[str, float]:
    """The cost model of docs/design/scale.md in float32, 4 bytes a weight of the model. `rounds`: micro-batches that
    the busiest rank has."""
    is_full = way.adapt.method == "full"
    model = 4.0 * (weights + (not is_full) * trained)
    slot = 4.0 * trained  # the base's own values; of LoRA zeros
    parts = model + 12 * trained  # masters and moments
    if not way.is_sharded or size == 1:
        held = first = model + slot + 12 * trained
        sent = 2.0 * (size - 1) * 4 * trained
    else:
        held = parts / size
        first = held + model + slot
        sent = (size - 1) * rounds * (2 * model + 4 * trained)
    return {"sent": sent / MIB, "first": first / MIB, "others": held / MIB}


def measured(way: Way, ranks: Ranks) -> dict[str, Any]:
    warm = Session(base())
    warm.create("t", Spec(Adapt("lora", rank=16)))
    update(warm, "t", forests()[:1], SFT(), 1e-4)
    warm.close()
    del warm
    floor = resident_mib()
    session = Session(base())
    give_back_freed_memory()
    weights = session.base.num_weights
    session.create("t", Spec(way.adapt))
    trained = sum(m.numel() for m in session.tenants["t"].masters.values())
    session.ranks = ranks
    is_sharded = way.is_sharded and ranks.size > 1
    if is_sharded:
        session.spread("t")
    seconds, sent, imbalance = [0.0], [0], [1.0]
    if isinstance(ranks, Group) and ranks.rank:
        if is_sharded:
            forget_whole(session)
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        obey(ranks, session)
    else:
        batches, objective = forests(), SFT()
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(REPEATS + 1):
            began, before = time.perf_counter(), sent_bytes()
            update(session, "t", batches, objective, 1e-4)
            seconds.append(time.perf_counter() - began)
            sent.append(sent_bytes() - before)
            imbalance.append(ranks.told.get("imbalance", 1.0))
        ranks.dismiss()
    peak = peak_gib() * 1024 - floor
    return {
        "update_s": statistics.median(seconds[2:] or [0]), "sent_mib": statistics.median(sent[2:] or [0]) / MIB,
        "imbalance": statistics.median(imbalance[2:] or [1]), "weights": weights, "trained": trained,
        "held_mib": resident_mib() - floor, "peak_mib": peak,
    }  # fmt: skip


def worker(rank: int, size: int, way: str, home: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    ranks = ALONE
    if size > 1:
        name = f"{home}/{way.replace(' ', '_')}_{size}"
        dist.init_process_group("gloo", store=dist.FileStore(name, size), rank=rank, world_size=size,
                                timeout=timedelta(seconds=PATIENCE_S))  # fmt: skip
        ranks = Group(PATIENCE_S)
    answer.send((rank, measured(WAYS[way], ranks)))
    if size > 1:
        dist.destroy_process_group()


def together(way: str, size: int, home: str) -> dict[str, Any]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=worker, args=(rank, size, way, home, theirs)) for rank in range(size)]
    for process in processes:
        process.start()
    theirs.close()
    found = dict(ours.recv() for _ in processes)
    for process in processes:
        process.join()
    first, others = found[0], [found[rank] for rank in range(1, size)]
    rounds = -(-FORESTS // size)
    return {
        **first, "foretold_mib": foretold_mib(WAYS[way], size, first["weights"], first["trained"], rounds),
        "others_held_mib": max((o["held_mib"] for o in others), default=None),
        "others_peak_mib": max((o["peak_mib"] for o in others), default=None),
    }  # fmt: skip


def main() -> None:
    rows: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory() as home:
        for way, size in itertools.product(WAYS, SIZES):
            if WAYS[way].is_sharded and size == 1:
                continue
            rows[way][str(size)] = row = together(way, size, home)
            told = row["foretold_mib"]
            said = f"{row['sent_mib']:.1f} MiB sent ({told['sent']:.1f} foretold)"
            memory = f"first holds {row['held_mib']:.0f} MiB ({told['first']:.0f}), at most {row['peak_mib']:.0f}"
            if size > 1:
                memory += f"; others {row['others_held_mib']:.0f} ({told['others']:.0f}), {row['others_peak_mib']:.0f}"
            print(f"{way:20} {size} ranks: {row['update_s']:.2f} s, {said}, {memory}", flush=True)
    line = {"what": "ranks", "machine": records.machine(), "ranks": rows,
            "settings": {"forests": FORESTS, "tokens": TOKENS, "repeats": REPEATS, "threads_each": 1}}  # fmt: skip
    with (records.RESULTS / "scale.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"date": date.today().isoformat(), **line}) + "\n")


if __name__ == "__main__":
    main()
