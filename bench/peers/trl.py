"""TRL's side of bench/speed.py: SFTTrainer on the same rows. Runs in an environment of its own (`make bench-peers`).

`default`: what a user gets on a CPU (float32, batches of 8, gradient checkpointing). `best`: the fastest setting that
still learns: packed to --max-tokens, no checkpointing.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

NUM_HELD_OUT, EXAMPLES_AN_UPDATE = 16, 16


class Marks(TrainerCallback):
    """The clock at the start and after each step, and the tokens of the step, without padding."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.tokens: list[int] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.tokens.append(0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.at.append(time.perf_counter())


class Counting(SFTTrainer):
    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")  # packed rows come without one, and without padding
        marks.tokens[-1] += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().training_step(model, inputs, *args, **kwargs)


marks = Marks()


def encoded(tokenizer: Any, row: Any) -> tuple[list[int], int]:
    """(ids, tokens of the prompt)"""

    def ids(messages: Any, **options: Any) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return ids(row["messages"]), len(ids(row["messages"][:-1], add_generation_prompt=True))


@torch.no_grad()
def held_out(model: Any, tokenizer: Any, rows: Any) -> dict[str, float]:
    """Nats per reply token, up to the end of the turn: what a template writes behind it is never asked for."""
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        ids, given = encoded(tokenizer, row)
        ids = ids[: len(ids) - ids[::-1].index(tokenizer.eos_token_id)]
        x = torch.tensor([ids])
        logits = model(input_ids=x, use_cache=False).logits[0, given - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, x[0, given:], reduction="sum").item()
        count += len(ids) - given
    return {"held_out_loss": total / count, "held_out_tokens": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows")
    parser.add_argument("--model")
    parser.add_argument("--adapt")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--preset")
    parser.add_argument("--max-tokens", type=int, help="no row has more")
    parser.add_argument("--bf16", action="store_true", help="autocast: faster where the machine multiplies in bf16")
    args = parser.parse_args()
    with open(args.rows) as lines:
        rows = [json.loads(line) for line in lines]
    learned = rows[: args.examples]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokens = sum(len(encoded(tokenizer, r)[0]) for r in learned)
    is_best, is_lora = args.preset == "best", args.adapt == "lora"
    sizes = (1, max(1, round(tokens / args.examples * EXAMPLES_AN_UPDATE / args.max_tokens))) if is_best else (8, 2)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if is_lora else None
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, per_device_train_batch_size=sizes[0], num_train_epochs=1,
        gradient_accumulation_steps=sizes[1], learning_rate=2e-4 if is_lora else 1e-5, completion_only_loss=True,
        max_length=args.max_tokens, packing=is_best, bf16=args.bf16, gradient_checkpointing=not is_best, seed=0,
        model_init_kwargs={"dtype": "float32"}, save_strategy="no", report_to="none", logging_steps=1,
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in learned])
    trainer = Counting(
        model=args.model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora,
        callbacks=[marks],
    )  # fmt: skip
    trainer.train()
    seconds = [b - a for a, b in pairwise(marks.at)]
    if len(seconds) == 1:
        raise SystemExit(f"{args.examples} examples make one update, and the first is left out. Raise --examples")
    facts = {
        "tokens_per_s": sum(marks.tokens[1:]) / sum(seconds[1:]),
        "first_update_s": seconds[0],
        "updates": len(seconds),
        "tokens": sum(marks.tokens),
        "versions": {name: version(name) for name in ("trl", "accelerate", "datasets")},
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    } | held_out(trainer.model.float(), tokenizer, rows[-NUM_HELD_OUT:])
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
