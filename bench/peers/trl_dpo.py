"""TRL's side of bench/dpo.py: DPOTrainer on the same rows, LoRA, the reference by the adapter switched off in each
step. Runs in an environment of its own (`make bench-peers`). Batches of 2 without checkpointing, the fastest found."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

PAIRS_AN_UPDATE, PAIRS_A_BATCH = 8, 2


class Marks(TrainerCallback):
    """The clock at the start and after each step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_begin(self, *_, **__) -> None:
        self.at.append(time.perf_counter())

    def on_step_end(self, *_, **__) -> None:
        self.at.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows")
    parser.add_argument("--model")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--max-tokens", type=int, help="no row has more")
    parser.add_argument("--bf16", action="store_true", help="weights of the base, the adapter stays float32")
    args = parser.parse_args()
    with open(args.rows) as lines:
        rows = [json.loads(line) for line in lines][: args.examples]
    if args.examples % PAIRS_AN_UPDATE:
        raise SystemExit(f"--examples {args.examples}: wanted a multiple of {PAIRS_AN_UPDATE}")
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, per_device_train_batch_size=PAIRS_A_BATCH, num_train_epochs=1,
        gradient_accumulation_steps=PAIRS_AN_UPDATE // PAIRS_A_BATCH, learning_rate=1e-5, max_length=args.max_tokens,
        bf16=False, gradient_checkpointing=False, seed=0, save_strategy="no", report_to="none", logging_steps=1,
        model_init_kwargs={"dtype": "bfloat16" if args.bf16 else "float32"}, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    marks = Marks()
    trainer = DPOTrainer(
        model=args.model, args=config, train_dataset=Dataset.from_list(rows), callbacks=[marks],
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()
    seconds = [b - a for a, b in pairwise(marks.at)]
    facts = {
        "pairs_per_s": PAIRS_AN_UPDATE * len(seconds[1:]) / sum(seconds[1:]),
        "first_update_s": seconds[0],
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "updates": len(seconds),
        "versions": {name: version(name) for name in ("trl", "accelerate", "datasets")},
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
