"""Which tool a file was written for, and what that tool does where the file says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Tool:
    shown: str
    marks: frozenset[str]  # keys that tell its files from others'
    defaults: dict[str, Any]  # our dotted key -> the value where its file is silent and ours would be another
    rows: int  # default of rows in memory at once
    lora_rank: int
    cut_long: bool  # what is too long is cut, not dropped


TOOLS = {
    "axolotl": Tool(
        "Axolotl",
        frozenset({
            "base_model", "sequence_len", "micro_batch_size", "num_epochs", "val_set_size", "lora_target_linear",
            "dataset_prepared_path", "sample_packing", "saves_per_epoch", "load_in_8bit", "adapter", "optimizer",
        }),
        {"train.epochs": 1, "train.schedule.warmup_frac": 0.03, "data.max_tokens": 512},
        rows=1, lora_rank=8, cut_long=False,
    ),
    "llamafactory": Tool(
        "LLaMA-Factory",
        frozenset({
            "stage", "finetuning_type", "template", "cutoff_len", "lora_rank", "lora_target", "dataset_dir", "val_size",
            "plot_loss", "overwrite_cache", "preprocessing_num_workers", "peft_config.name", "train_dataset",
            "model_class",
        }),
        {
            "train.lr": 5e-5, "train.epochs": 3, "train.schedule.kind": "linear", "train.schedule.warmup_frac": 0.0,
            "data.max_tokens": 2048,
        },
        rows=8, lora_rank=8, cut_long=True,
    ),
    "trl": Tool(
        "TRL",
        frozenset({
            "dataset_name", "dataset_train_split", "use_peft", "max_seq_length", "max_length", "dataset_text_field",
            "assistant_only_loss", "completion_only_loss", "dataset_mixture.seed", "dataset_num_proc", "torch_dtype",
            "num_train_epochs", "hub_model_id", "do_eval", "eval_strategy", "lr_scheduler_type", "padding_free",
        }),
        {
            "train.lr": 2e-5, "train.epochs": 3, "train.schedule.kind": "linear", "train.schedule.warmup_frac": 0.0,
            "data.max_tokens": 1024,
        },
        rows=8, lora_rank=16, cut_long=True,
    ),
}  # fmt: skip


def detect(said: dict[str, Any], path: str) -> str:
    """The tool whose own keys the file has most of. Raises RecipeError where none or two fit equally."""
    votes = {name: len(tool.marks & set(said)) for name, tool in TOOLS.items()}
    best = max(votes.values())
    winners = [name for name, count in votes.items() if count == best]
    if {"model", "data.train"} <= set(said):
        raise RecipeError(f"{path} is a recipe of tunesmith already: `tunesmith run {path}`")
    if best == 0 or len(winners) > 1:
        found = ", ".join(list(said)[:5]) or "nothing"
        fit = "none" if best == 0 else " and ".join(winners)
        raise RecipeError(
            f"{path}: whose file this is cannot be told from its keys ({found} …; {fit} would fit). "
            f"Say it: --from {' | '.join(TOOLS)}"
        )
    return winners[0]
