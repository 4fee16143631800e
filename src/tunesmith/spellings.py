"""How other tools spell what a recipe says: hints for a key that is not known; `tunesmith import` translates files.

Read from the option lists and the example files of Axolotl, LLaMA-Factory (both of its formats), TRL with its scripts,
and transformers' TrainingArguments, as of 2026.
"""

from __future__ import annotations

# our key -> their names, the same idea whatever the tool; the first that a file says is the one that counts
THEIRS: dict[str, tuple[str, ...]] = {
    "model": ("base_model", "model_name_or_path", "model_name", "model"),
    "data.train": ("datasets", "dataset", "dataset_name", "train_dataset", "train_file", "training_file"),
    "data.dev": ("test_datasets", "eval_dataset", "dataset_test_split", "validation_file"),
    "data.dev_frac": ("val_set_size", "val_size", "eval_split_size"),
    "data.max_tokens": ("sequence_len", "cutoff_len", "max_seq_length", "max_length", "model_max_length"),
    "data.too_long": ("excess_length_strategy", "truncation_mode"),
    "task.instruction": ("default_system", "default_system_message", "system_prompt"),
    "adapt.method": ("adapter", "finetuning_type", "use_peft", "peft_config.name"),
    "adapt.rank": ("lora_r", "lora_rank", "peft_config.r", "r"),
    "adapt.alpha": ("lora_alpha", "peft_config.lora_alpha"),
    "adapt.dropout": ("lora_dropout", "peft_config.lora_dropout"),
    "adapt.targets": ("lora_target_modules", "lora_target", "lora_target_linear", "peft_config.target_modules",
                      "target_modules"),
    "adapt.base_bits": ("load_in_4bit", "load_in_8bit", "quantization_bit"),
    "adapt.last_k": ("freeze_trainable_layers", "peft_config.freeze_trainable_layers"),
    "train.lr": ("learning_rate", "lr", "learning_rate_multiplier"),
    "train.epochs": ("num_epochs", "num_train_epochs", "n_epochs"),
    "train.max_updates": ("max_steps",),
    "train.update_tokens": ("gradient_accumulation_steps", "global_batch_size", "batch_size"),
    "train.micro_tokens": ("micro_batch_size", "per_device_train_batch_size"),
    "train.every_checkpoint": ("save_steps", "saves_per_epoch"),
    "train.compile": ("torch_compile",),
    "train.schedule.kind": ("lr_scheduler", "lr_scheduler_type"),
    "train.schedule.warmup_frac": ("warmup_ratio", "warmup_steps"),
    "train.schedule.end_frac": ("cosine_min_lr_ratio", "lr_scheduler_kwargs.min_lr_rate"),
    "train.optim.beta1": ("adam_beta1",),
    "train.optim.beta2": ("adam_beta2",),
    "train.optim.eps": ("adam_epsilon", "adam_eps"),
    "train.optim.weight_decay": ("weight_decay",),
    "train.optim.clip_norm": ("max_grad_norm",),
    "evals.max_new_tokens": ("max_new_tokens", "generation_max_length"),
    "precision": ("bf16", "bfloat16", "fp16", "float16", "torch_dtype", "dtype", "mixed_precision"),
    "seed": ("random_state", "data_seed"),
    "trackers": ("report_to",),
}  # fmt: skip
OURS: dict[str, str] = {their: ours for ours, names in THEIRS.items() for their in reversed(names)}
# their key -> the option of the command line that does it here
OPTIONS: dict[str, str] = {
    "output_dir": "--out FOLDER",
    "resume_from_checkpoint": "--resume --out FOLDER",
    "auto_resume_from_checkpoints": "--resume --out FOLDER",
}

# spellings that only a hint needs: their key -> our key
ALSO: dict[str, str] = {
    "pretrained_model_name_or_path": "model",
    "test_file": "data.test",
    "test_size": "data.test_frac",
    "max_seq_len": "data.max_tokens",
    "text_column": "data.columns.prompt",
    "label_column": "data.columns.label",
    "peft_type": "adapt.method",
    "eval_table_size": "evals.max_cases",
    "eval_max_new_tokens": "evals.max_new_tokens",
    "max_samples": "evals.max_cases",
    "random_seed": "seed",
    "neftune_noise_alpha": "regularise.neftune",
    "label_smoothing_factor": "objective.smoothing",
    "early_stopping_patience": "train.early_stop.patience",
    "use_rslora": "adapt.rslora",
    "use_dora": "adapt.dora",
}
# our key -> what has to be known where the units or the values are others
NOTES: dict[str, str] = {
    "data.train": "a list of files",
    "data.dev_frac": "and data.test_frac for the held-out cases of the verdict",
    "adapt.method": "lora, full, last_k or named",
    "adapt.targets": "empty means all linear layers",
    "adapt.base_bits": "4 or 8, under LoRA",
    "train.update_tokens": "counted in tokens of one update, however it is cut",
    "train.micro_tokens": "counted in tokens; it changes memory, never the result",
    "train.every_checkpoint": "counted in updates",
    "train.schedule.warmup_frac": "a fraction of the updates",
    "precision": "auto, float32 or bfloat16",
}
# their key -> why no key here stands for it
NOT_KEYS: dict[str, str] = {
    "overwrite_output_dir": "a run never writes over another one: name a new folder with --out",
    "sample_packing": "examples are always packed without padding, and never see each other",
    "packing": "examples are always packed without padding, and never see each other",
    "group_by_length": "examples are always packed without padding, so that their lengths cost nothing",
    "train_on_inputs": "only replies are learned; a weight of a message or a weight column says otherwise",
    "train_on_prompt": "only replies are learned; a weight of a message or a weight column says otherwise",
    "chat_template": "the model's own chat template is always used",
    "template": "the model's own chat template is always used",
    "flash_attention": "which attention is used is decided by a probe of the loaded model",
    "gradient_checkpointing": "here it is train.checkpointing: on, off, or auto (where a run fits only so)",
    "trust_remote_code": "code that comes with a model is never run",
    "do_train": "`tunesmith run` trains, `tunesmith plan` does not",
}


def hint(name: str) -> str | None:
    """What a key of another tool is called here, or why nothing is; None where it is no known one."""
    ours = OURS.get(name) or ALSO.get(name)
    if ours is not None:
        note = f" ({NOTES[ours]})" if ours in NOTES else ""
        return f"what other tools call {name} is {ours} here{note}"
    if name in OPTIONS:
        return f"what other tools call {name} is said on the command line here: {OPTIONS[name]}"
    return NOT_KEYS.get(name)
