"""What frozen depth saves: the time of an update and the bytes of the optimizer, the last k layers against all.

A random Llama of 12 layers, so that nothing is downloaded. Time is that of the process, the ways in turn, median of
REPEATS after a warm-up; the figures are ratios to all weights, and the expected ones stand beside: a frozen layer costs
a forward pass, of three passes that a trained one costs.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import transformers

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.update import update
from tunesmith.models.adapters import Adapt
from tunesmith.models.catalogue import Located
from tunesmith.models.heads import find_head
from tunesmith.models.load import Base
from tunesmith.models.probe import probe
from tunesmith.objectives.sft import SFT
from tunesmith.types import Forest, Record, Segment

NUM_LAYERS, WIDTH, VOCABULARY, REPEATS = 12, 256, 512, 5
RESULTS = Path(__file__).parent / "results" / "frozen_depth.jsonl"
WAYS = {
    "all": Adapt("full"),
    "6": Adapt("last_k", last_k=6),
    "3": Adapt("last_k", last_k=3),
    "1": Adapt("last_k", last_k=1),
}


def base() -> Base:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    located = Located("random", Path(), "random", "", "")
    return Base(located, model, None, "0" * 64, probe(model), find_head(model), None)  # type: ignore[arg-type]


def batch() -> Forest:
    drawn = np.random.default_rng(0)
    weights = np.r_[np.zeros(48), np.ones(16)].astype(np.float32)
    return forest([Record(str(i), (Segment(drawn.integers(3, VOCABULARY, 64), weights),)) for i in range(8)])


def opened(adapt: Adapt) -> Session:
    session = Session(base())
    session.create("t", Spec(adapt))
    update(session, "t", [batch()], SFT(), 1e-4)
    return session


def main() -> None:
    sessions = {name: opened(adapt) for name, adapt in WAYS.items()}
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(REPEATS):
        for name, session in sessions.items():
            began = time.process_time()
            update(session, "t", [batch()], SFT(), 1e-4)
            took[name].append(time.process_time() - began)
    whole = statistics.median(took["all"])
    rows = []
    for name, session in sessions.items():
        tenant = session.tenants["t"]
        states = [t for state in tenant.optimizer.state.values() for t in state.values()]
        layers = NUM_LAYERS if name == "all" else int(name)
        rows.append({
            "trained_layers": layers,
            "update_cpu_s": round(statistics.median(took[name]), 4),
            "time_frac_of_all": round(statistics.median(took[name]) / whole, 3),
            "expected_frac": round((NUM_LAYERS + 2 * layers) / (3 * NUM_LAYERS), 3),
            "trained_weights": sum(m.numel() for n, m in tenant.masters.items() if n in tenant.trainable),
            "optimizer_bytes": sum(t.numel() * t.element_size() for t in states),
        })  # fmt: skip
    line = {
        "date": datetime.now(UTC).date().isoformat(), "num_layers": NUM_LAYERS, "width": WIDTH, "repeats": REPEATS,
        "device": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
        "rows": rows,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
