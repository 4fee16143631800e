"""Speed of learning family by family: our layout against transformers' own model, random weights of about 100 million.

    python bench/families.py [--only llama qwen3 …] [--precision bfloat16] [--compile] [--pairs 5]

LoRA of rank 16 on all linear layers, the same rows of random tokens on both sides, updates in turn in one process. The
other side is what most loops do: transformers' model with peft, the attention that transformers picks, four rows side
by side, padded to the longest, weights in the same number format, torch's AdamW. Tokens are those of the rows, without
padding. Which path ran is asserted and written down: the layout that the probe chose, and who computed attention.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import records

COMMON = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 4, "vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (transformers' config, what it has beside COMMON)
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 512}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "gemma2": ("Gemma2Config", {"head_dim": 64, "sliding_window": 512}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 64, "sliding_window": 512}),
    "olmo2": ("Olmo2Config", {}),
    "granite": ("GraniteConfig", {}),
    "phi3": ("Phi3Config", {"sliding_window": 512}),
}
TOKENS, ROWS_A_BATCH, MEAN = 2048, 4, 200.0  # of an update; of the other side's batch; tokens of a row


def model_of(family: str, precision: str) -> Any:
    import torch
    import transformers

    name, more = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**COMMON, **more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return model.to(getattr(torch, precision)).eval()


def theirs(model: Any, rows: list[Any]) -> Any:
    """An update of transformers' model, as a function without arguments."""
    import torch
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer, batches = torch.optim.AdamW(trained, lr=1e-4), []
    for first in range(0, len(rows), ROWS_A_BATCH):
        some = [row.segments[0] for row in rows[first : first + ROWS_A_BATCH]]
        longest = max(len(s.tokens) for s in some)
        ids, labels = torch.zeros(len(some), longest, dtype=torch.long), torch.full((len(some), longest), -100)
        mask = torch.zeros(len(some), longest, dtype=torch.long)
        for i, s in enumerate(some):
            tokens = torch.from_numpy(s.tokens)
            ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
            labels[i, : len(tokens)] = torch.where(torch.from_numpy(s.weights) > 0, tokens, -100)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})

    def update() -> None:
        tuned.train()
        for batch in batches:
            tuned(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def ours(model: Any, rows: list[Any], compiled: bool) -> tuple[Any, dict[str, str]]:
    """(an update through the session, which path it takes)"""
    from tunesmith.data.pack import forest
    from tunesmith.engine.session import Session
    from tunesmith.engine.tenant import Spec
    from tunesmith.engine.update import update
    from tunesmith.models import kernel
    from tunesmith.models.adapters import Adapt
    from tunesmith.models.catalogue import Located
    from tunesmith.models.heads import find_head
    from tunesmith.models.load import Base
    from tunesmith.models.probe import probe
    from tunesmith.objectives.sft import SFT

    model.requires_grad_(False)
    located = Located("random", Path(), "random", "", "")
    no_tokenizer: Any = None
    base = Base(located, model, no_tokenizer, "0" * 64, probe(model), find_head(model), None)
    if base.layout != "forest":
        raise SystemExit(f"{type(model).__name__}: the layout is {base.layout}, wanted forest: {base.probe.reason}")
    session = Session(base, compiled=compiled)
    session.create("speed", Spec(Adapt(method="lora")))
    batch = forest(rows)

    def learn() -> None:
        update(session, "speed", [batch], SFT(), 1e-4)

    with mock.patch.object(kernel, "_run", wraps=kernel._run) as called:
        learn()
    return learn, {"layout": base.layout, "attention": "kernel" if called.called else "torch"}


def measured(family: str, precision: str, compiled: bool, pairs: int) -> dict[str, Any]:
    from bench.gpu import rows_of

    rows = rows_of("sft", TOKENS, COMMON["vocab_size"], 3, MEAN)
    plain = theirs(model_of(family, precision), rows)
    model = model_of(family, precision)
    learn, path = ours(model, rows, compiled)
    sides: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(pairs + 1):  # the first of each is not counted
        for name, step in (("ours", learn), ("theirs", plain)):
            began = time.perf_counter()
            step()
            if number:
                sides[name].append(TOKENS / (time.perf_counter() - began))
    weights = sum(p.numel() for n, p in model.named_parameters() if "lora_" not in n)
    return {"path": path, "weights": weights, **sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measured(asked.child, asked.precision, asked.compile, asked.pairs)))
        return
    how = f"{'compiled' if asked.compile else 'eager'}, {asked.precision}"
    settings = {"compiled": asked.compile, "precision": asked.precision, "tokens": TOKENS, "rows": ROWS_A_BATCH}
    for family in asked.only:
        own = ["--child", family, "--precision", asked.precision, "--pairs", str(asked.pairs)]
        done = subprocess.run(
            [sys.executable, __file__, *own, *["--compile"] * asked.compile], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{family} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        path, size = found["path"], f"{found['weights'] / 1e6:.0f}M"
        job = f"LoRA, random {family} of {size}, {how}; {path['layout']}, attention by {path['attention']}"
        ratio = records.compared(found["ours"], found["theirs"], "tokens/s")
        records.keep(__file__, job, settings | {"family": family}, {"transformers, padded": ratio}, found=found)


if __name__ == "__main__":
    main()
