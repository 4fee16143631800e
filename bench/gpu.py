"""Learning on a GPU: tokens a second, the share of the GPU's peak, and memory, on random weights of known shapes.

    python bench/gpu.py [--size 0.5b 1b 8b] [--job sft dpo] [--adapt lora full] [--tokens 4096 16384] [--compile]
    python bench/gpu.py --device cpu --size tiny --tokens 512          # that all of it runs, where there is no GPU

Before the clock runs, loss and gradients of a few short rows are held against transformers' own attention on one
sequence after the other, in the same number format. What does not fit is said, and the next case begins. Tokens are
those that are computed: a pair's prompt stands once. Operations are counted as 6 a weight and token (4 where the
weights are frozen) and those of causal attention; the peak is the data sheet's for dense bfloat16.

**No figure was ever taken with this: no GPU was at hand.** The training half of GRPO is not there, since its objective
is not; nor is TRL's side.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records

from tunesmith.data.pack import forest
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.engine.update import update
from tunesmith.models.adapters import Adapt
from tunesmith.models.catalogue import Located
from tunesmith.models.heads import find_head
from tunesmith.models.load import Base
from tunesmith.models.probe import probe
from tunesmith.objectives.preference import Preference, Preferring
from tunesmith.objectives.sft import SFT
from tunesmith.roles import Objective
from tunesmith.types import Record, Segment

TENANT = "speed"
SHAPES = {  # hidden, between, layers, heads, key/value heads, vocabulary, one table for both ends
    "tiny": (64, 176, 2, 4, 2, 512, True),
    "0.5b": (896, 4864, 24, 14, 2, 151_936, True),  # Qwen2.5-0.5B
    "1b": (2048, 8192, 16, 32, 8, 128_256, True),  # Llama-3.2-1B
    "8b": (4096, 14_336, 32, 32, 8, 128_256, False),  # Llama-3.1-8B
}
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # operations a second
GAP = 0.02  # of a gradient in bfloat16: 1 - cosine
WARM = 2  # updates before the clock


def base_of(size: str, device: str, dtype: torch.dtype) -> Base:
    hidden, between, layers, heads, kv_heads, vocabulary, tied = SHAPES[size]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=between, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=32_768,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
    model.requires_grad_(False)
    located = Located(size, Path(), size, "", "")
    return Base(located, model, None, "0" * 64, probe(model), find_head(model), None)  # type: ignore[arg-type]


def rows_of(job: str, tokens: int, vocabulary: int, seed: int, mean: float = 300.0) -> list[Record]:
    """Random tokens in rows of lognormal lengths, a quarter of each learned, until there are so many tokens. Of pairs
    the prompt is two thirds, and stands once."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    made: list[Record] = []
    left = tokens
    while left > 0:
        size = min(left, max(16, round(mean * math.exp(draw.gauss(-0.18, 0.6)))))
        left -= size
        ids = rng.integers(3, vocabulary, size).astype(np.int64)
        reply = max(1, size // 4)
        if job == "sft":
            weights = np.concatenate([np.zeros(size - reply), np.ones(reply)]).astype(np.float32)
            made.append(Record(f"r{len(made)}", (Segment(ids, weights),)))
            continue
        cuts = np.split(ids, [max(1, size - 2 * (size // 6)), max(2, size - size // 6)])
        root, *replies = (Segment(x, np.full(len(x), k > 0, np.float32), 0 if k else -1) for k, x in enumerate(cuts))
        made.append(Record(f"r{len(made)}", (root, *replies)))
    return made


def objective_of(job: str, rows: Sequence[Record]) -> Objective:
    return SFT() if job == "sft" else Preferring(Preference(), {row.example_id: (-50.0, -50.0) for row in rows})


def gap_of(session: Session, rows: Sequence[Record]) -> tuple[float, float]:
    """(relative difference of the loss, largest 1 - cosine of a gradient) between a forest and transformers' own pass
    over one sequence after the other."""
    batch, tenant = forest(list(rows)), session.tenants[TENANT]
    units = float(SFT().count(batch))
    ours = session.forward_backward(TENANT, [batch], SFT(), 1 / units)["loss"]
    mine = {name: gradient.clone() for name, gradient in tenant.pending.items()}
    session.forget_gradients(TENANT)
    total = 0.0
    with session.borrowed(TENANT) as model, torch.enable_grad():
        for parameter in tenant.slot.live.values():
            parameter.requires_grad_(True)
        for row in rows:
            [segment] = row.segments
            ids = torch.from_numpy(segment.tokens)[None].to(model.device)
            learned = torch.from_numpy(segment.weights[1:]).to(model.device)
            logp = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            loss = -(logp.gather(1, ids[0, 1:, None])[:, 0] * learned).sum() / units
            loss.backward()
            total += float(loss.detach())
        theirs = {
            name: parameter.grad.float() for name, parameter in tenant.slot.live.items() if parameter.grad is not None
        }
        for parameter in tenant.slot.live.values():
            parameter.requires_grad_(False)
            parameter.grad = None
    gaps = [1 - cosine(mine[name], theirs[name]) for name in theirs if float(theirs[name].abs().max()) > 0]
    return abs(float(ours.mean) / total - 1), max(gaps)


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def operations(base: Base, rows: Sequence[Record], *, is_frozen: bool) -> float:
    """Of one update over these rows: the products with weights, and causal attention's."""
    config = base.model.config
    weights = base.num_weights - (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)
    width, layers, seen, tokens = config.hidden_size, config.num_hidden_layers, 0.0, 0
    for row in rows:
        sizes = [len(segment.tokens) for segment in row.segments]
        tokens += sum(sizes)
        seen += sum(n * (n / 2 + (sizes[0] if k else 0)) for k, n in enumerate(sizes))
    return (4 if is_frozen else 6) * weights * tokens + 12 * layers * width * seen


def measure(
    size: str, job: str, adapt: str, tokens: int, device: str, *, compiled: bool = False, updates: int = 8
) -> dict[str, Any]:
    """Figures of one case; {"failed": why} where it does not fit."""
    is_gpu = device.startswith("cuda")
    dtype = torch.bfloat16 if is_gpu else torch.float32
    try:
        base = base_of(size, device, dtype)
        session = Session(base, compiled=compiled)
        session.create(TENANT, Spec(Adapt(method=adapt)))  # type: ignore[arg-type]
        vocabulary = SHAPES[size][5]
        batches = [rows_of(job, tokens, vocabulary, seed) for seed in range(WARM + updates)]
        check = rows_of("sft", 600, vocabulary, 99, mean=100.0)
        update(session, TENANT, [forest(check)], SFT(), 1e-3)  # so that both factors of LoRA have a gradient
        loss_gap, gradient_gap = gap_of(session, check)
        if gradient_gap > GAP:
            raise SystemExit(f"{size} {adapt}: gradients are {gradient_gap:.3g} (1 - cosine) from transformers' own")
        if is_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for rows in batches:
            began = time.perf_counter()
            update(session, TENANT, [forest(rows)], objective_of(job, rows), 1e-5)
            if is_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).splitlines()[0]}
    update_s = statistics.median(seconds[WARM:])
    name = torch.cuda.get_device_name() if is_gpu else ""
    peak = next((rate for part, rate in PEAK.items() if part in name), None)
    rate = operations(base, batches[-1], is_frozen=adapt == "lora") / update_s
    return {
        "tokens_per_s": tokens / update_s, "update_s": update_s, "first_update_s": seconds[0], "updates": updates,
        "share_of_peak": rate / peak if peak else None,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if is_gpu else None,
        "loss_gap": loss_gap, "gradient_gap": gradient_gap,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SHAPES, default=["0.5b", "1b", "8b"])
    parser.add_argument("--job", nargs="+", choices=["sft", "dpo"], default=["sft", "dpo"])
    parser.add_argument("--adapt", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 16_384], help="of a batch, which is one update")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --device cpu --size tiny tries the script")
    for size, job, adapt, tokens in itertools.product(asked.size, asked.job, asked.adapt, asked.tokens):
        found = measure(size, job, adapt, tokens, asked.device, compiled=asked.compile)
        name = f"{job} {size}, {'LoRA' if adapt == 'lora' else 'all weights'}, {tokens} tokens"
        print(name, found, flush=True)
        if asked.device.startswith("cuda"):
            said = {"size": size, "job": job, "adapt": adapt, "tokens": tokens, "compiled": asked.compile}
            records.keep(__file__, name, said, {}, device=torch.cuda.get_device_name(), found=found)


if __name__ == "__main__":
    main()
