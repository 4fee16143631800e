"""TRL's side of bench/methods.py: DPOTrainer and GRPOTrainer on the same rows, LoRA. Runs in an environment of its own
(`make bench-peers`), without checkpointing, in the batches that were fastest. DPO's reference is the adapter switched
off, in each step; GRPO has none, and every reply has as many tokens as it may."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

PAIRS_AN_UPDATE, PAIRS_A_BATCH = 8, 2
GROUPS, GROUP, NEW_TOKENS = 2, 8, 64


class Marks(TrainerCallback):
    """The clock at the start and after each step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())


def letters(completions: Any, **_: Any) -> list[float]:
    return [c[0]["content"].count("e") / max(1, len(c[0]["content"])) for c in completions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job")
    parser.add_argument("--rows")
    parser.add_argument("--model")
    parser.add_argument("--updates", type=int)
    parser.add_argument("--max-tokens", type=int, help="no row has more")
    parser.add_argument("--bf16", action="store_true", help="weights of the base; the adapter stays float32")
    args = parser.parse_args()
    with open(args.rows) as lines:
        data = Dataset.from_list([json.loads(line) for line in lines])
    common = {
        "output_dir": tempfile.mkdtemp(), "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "seed": 0,
        "save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
        "dataloader_pin_memory": False, "model_init_kwargs": {"dtype": "bfloat16" if args.bf16 else "float32"},
        "max_steps": args.updates,
    }  # fmt: skip
    marks = Marks()
    parts = {
        "model": args.model, "train_dataset": data, "processing_class": AutoTokenizer.from_pretrained(args.model),
        "callbacks": [marks],
        "peft_config": LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    }  # fmt: skip
    if args.job == "dpo":
        trainer = DPOTrainer(**parts, args=DPOConfig(
            **common, per_device_train_batch_size=PAIRS_A_BATCH, max_length=args.max_tokens, learning_rate=1e-5,
            gradient_accumulation_steps=PAIRS_AN_UPDATE // PAIRS_A_BATCH,
        ))  # fmt: skip
    else:
        trainer = GRPOTrainer(**parts, reward_funcs=letters, args=GRPOConfig(
            **common, per_device_train_batch_size=GROUP, gradient_accumulation_steps=GROUPS, num_generations=GROUP,
            max_completion_length=NEW_TOKENS, learning_rate=1e-5, beta=0.0,
            generation_kwargs={"min_new_tokens": NEW_TOKENS},
        ))  # fmt: skip
    trainer.train()
    seconds = [b - a for a, b in pairwise(marks.at)]
    facts = {
        "update_s": sum(seconds[1:]) / len(seconds[1:]),
        "first_update_s": seconds[0],
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "versions": {name: version(name) for name in ("trl", "accelerate", "datasets")},
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
