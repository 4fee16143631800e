"""Several processes on this machine: seconds of an update, memory of each, and bytes between them, for 1, 2, 4 ranks.

Bytes are those of the loopback device, read before and after: what is really sent, the leader's words included. They
are compared with what a ring of n ranks has to send for the sum of all gradients, 2 (n - 1) x 4 bytes a weight. On one
processor ranks share its cores, so that time says what several processes cost, and nothing of what GPUs would gain.

    python bench/scale.py
"""

from __future__ import annotations

import itertools
import json
import multiprocessing as mp
import statistics
import tempfile
import time
from datetime import date, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from bench import records
from bench.frozen_depth import base

from tunesmith.data.pack import forest
from tunesmith.engine.ranks import ALONE, Group, Ranks, obey
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.update import update
from tunesmith.folder import peak_gib
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Record, Segment

WAYS = {"LoRA": Adapt("lora", rank=16), "all weights": Adapt("full")}
SIZES, REPEATS, FORESTS, TOKENS = (1, 2, 4), 3, 8, 256
PATIENCE_S = 300


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


def measured(adapt: Adapt, ranks: Ranks) -> dict[str, Any]:
    session = Session(base())
    session.create("t", Spec(adapt))
    session.ranks = ranks
    if isinstance(ranks, Group) and ranks.rank:
        obey(ranks, session)
        session.close()
        return {}
    batches, objective = forests(), SFT()
    seconds, sent, imbalance = [], [], []
    for _ in range(REPEATS + 1):
        began, before = time.perf_counter(), sent_bytes()
        update(session, "t", batches, objective, 1e-4)
        seconds.append(time.perf_counter() - began)
        sent.append(sent_bytes() - before)
        imbalance.append(ranks.told.get("imbalance", 1.0))
    num = sum(m.numel() for m in session.tenants["t"].masters.values())
    ranks.dismiss()
    session.close()
    return {
        "update_s": statistics.median(seconds[1:]), "sent_mib": statistics.median(sent[1:]) / 2**20,
        "foretold_mib": 2 * (ranks.size - 1) * 4 * num / 2**20, "weights": num, "peak_gib": peak_gib(),
        "imbalance": statistics.median(imbalance[1:]),
    }  # fmt: skip


def worker(rank: int, size: int, way: str, home: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    ranks = ALONE
    if size > 1:
        store = dist.FileStore(f"{home}/{way}_{size}", size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE_S))
        ranks = Group(PATIENCE_S)
    found = measured(WAYS[way], ranks)
    if rank == 0:
        answer.send(found)
    if size > 1:
        dist.destroy_process_group()


def together(way: str, size: int, home: str) -> dict[str, Any]:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=worker, args=(rank, size, way, home, theirs)) for rank in range(size)]
    for process in processes:
        process.start()
    theirs.close()
    found: dict[str, Any] = ours.recv()
    for process in processes:
        process.join()
    return found


def main() -> None:
    rows: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory() as home:
        for way, size in itertools.product(WAYS, SIZES):
            rows[way][str(size)] = row = together(way, size, home)
            bytes_said = f"{row['sent_mib']:.1f} MiB sent ({row['foretold_mib']:.1f} foretold)"
            rest = f"{row['peak_gib']:.2f} GiB, imbalance {row['imbalance']:.2f}"
            print(f"{way:12} {size} ranks: {row['update_s']:.3f} s, {bytes_said}, {rest}", flush=True)
    line = {"what": "ranks", "machine": records.machine(), "ranks": rows,
            "settings": {"forests": FORESTS, "tokens": TOKENS, "repeats": REPEATS, "threads_each": 1}}  # fmt: skip
    with (records.RESULTS / "scale.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"date": date.today().isoformat(), **line}) + "\n")


if __name__ == "__main__":
    main()
